"""Options: how commands share them, and what people type and read in them.

A parameter annotated with `Depends(maker)` is no option itself: `maker` declares options of its
own, and what it returns is handed in. So a command that takes a `Service` has `--url`, `--api-key`,
`--tenant` and `--json`, declared once. Times, tags, headers and JSON that cannot be read raise
typer.BadParameter, which says how they should look.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import typer
from rich.text import Text

from dispatcher.policy import PRESETS
from receiver.base import cli
from receiver.base.cli import Run, ago
from receiver.base.clock import iso, parse_iso

_AGO: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(s|m|h|d|w)")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_HEADER: Final = re.compile(r"([^:\s]+):\s*(.*)", re.DOTALL)
_KEY: Final = re.compile(r"[!-~]{1,255}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
# How a state or a health is shown: its mark and its colour.
_LOOKS: Final = {
    "pending": ("○", "yellow"),
    "sending": ("◐", "cyan"),
    "delivered": ("●", "green"),
    "dead": ("✗", "bold red"),
    "cancelled": ("–", "dim"),
    "queued": ("○", "yellow"),
    "running": ("◐", "cyan"),
    "completed": ("●", "green"),
    "failed": ("✗", "bold red"),
    "timeout": ("✗", "bold red"),
    "healthy": ("●", "green"),
    "active": ("●", "green"),
    "held": ("✗", "bold red"),
    "failing": ("◐", "yellow"),
    "circuit-open": ("✗", "bold red"),
    "disabled": ("–", "dim"),
    "paused": ("‖", "yellow"),
}
STATE_WIDTHS: Final = {"STATUS": len("● delivered"), "HEALTH": len("✗ circuit-open")}

_Parameters = Mapping[str, inspect.Parameter]


@dataclass(frozen=True, slots=True)
class Depends:
    """Says, inside `Annotated`, who makes a parameter. A result that is a context manager is
    entered around the command."""

    maker: Callable[..., Any]


def command(app: typer.Typer, name: str, *shown: str) -> Callable[[Run], Run]:
    """Add the function below to `app`, with `shown` as its examples."""
    return cli.command(app, name, *shown, prepare=with_dependencies)


def with_dependencies(run: Callable[..., None]) -> Callable[..., None]:
    """Return `run` as typer takes it: in place of each parameter that depends on a maker stand the
    maker's own parameters."""
    own = _parameters(run)
    makers = {name: it.maker for name, parameter in own.items() if (it := _dependency(parameter))}
    needed = {name: _parameters(maker) for name, maker in makers.items()}
    visible = {name: parameter for name, parameter in own.items() if name not in makers}
    for maker_name, parameters in needed.items():
        clash = [
            it for it in parameters if visible.setdefault(it, parameters[it]) != parameters[it]
        ]
        if clash:
            raise TypeError(f"{run.__name__} and what makes {maker_name} both declare {clash}")

    def typer_command(**options: Any) -> None:
        values = {name: value for name, value in options.items() if name in own}
        with ExitStack() as stack:
            for name, maker in makers.items():
                made = maker(**{needs: options[needs] for needs in needed[name]})
                if isinstance(made, AbstractContextManager):
                    stack.enter_context(made)
                values[name] = made
            run(**values)

    typer_command.__name__ = run.__name__
    typer_command.__doc__ = run.__doc__
    typer_command.__annotations__ = {name: it.annotation for name, it in visible.items()}
    typer_command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # typer reads it
        [it.replace(kind=inspect.Parameter.KEYWORD_ONLY) for it in visible.values()]
    )
    return typer_command


def _parameters(run: Callable[..., Any]) -> _Parameters:
    return inspect.signature(run).parameters


def _dependency(parameter: inspect.Parameter) -> Depends | None:
    marks = getattr(parameter.annotation, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, Depends)), None)


def word(state: str) -> Text:
    """Return a state or a health as a mark and a word in its colour."""
    mark, style = _LOOKS.get(state, ("", ""))
    return Text(f"{mark} {state}".lstrip(), style=style)


def due(at: datetime) -> str:
    """Return when the next attempt goes out: `next in 4m`, or where something holds it `due 8s
    ago`."""
    return f"{'next' if at > datetime.now(UTC) else 'due'} {ago(at)}"


def moment(text: str) -> str:
    """Return `2h` ago, or a time, as ISO-8601."""
    match = _AGO.fullmatch(text.strip())
    try:
        if match is not None:
            span = timedelta(seconds=float(match[1]) * _UNITS[match[2]])
            return iso(max(0, int((datetime.now(UTC) - span).timestamp() * 1000)))
        return iso(parse_iso(text.strip()))
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a time: write 30m, 2h or 7d (ago), or 2026-01-31T12:00:00Z"
        ) from None


def ahead(text: str) -> str | float:
    """Return `90d` from now as seconds, or a time, as ISO-8601."""
    try:
        return iso(parse_iso(text.strip()))
    except (ValueError, OverflowError):
        pass
    try:
        return duration_s(text)
    except typer.BadParameter:
        message = f"{text!r} is not a time: write 12h or 90d (from now), or 2027-01-31T12:00:00Z"
        raise typer.BadParameter(message) from None


def duration_s(text: str) -> float:
    """`90`, `30s`, `2h` or `1d` as seconds."""
    found = _AGO.fullmatch(text.strip() if text.strip()[-1:] in _UNITS else f"{text.strip()}s")
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a length of time: write 90, 30m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """`key=value` options as a dict."""
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{option} {text!r} must look like key=value")
        if key in found:
            raise typer.BadParameter(f"{option} {key!r} is there twice")
        found[key] = value
    return found


def headers(texts: list[str] | None) -> dict[str, str] | None:
    """`Name: value` options as a dict, or None without any."""
    found: dict[str, str] = {}
    for text in texts or ():
        match = _HEADER.fullmatch(text)
        if match is None:
            raise typer.BadParameter(f"--header {text!r} must look like 'Name: value'")
        if match[1] in found:
            raise typer.BadParameter(f"--header {match[1]!r} is there twice")
        found[match[1]] = match[2]
    return found or None


def policy(text: str | None) -> str | dict[str, Any] | None:
    """Return a preset's name, or a policy object as JSON."""
    if text is None or text in PRESETS:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise typer.BadParameter(
            f"--policy {text!r} is neither one of {', '.join(PRESETS)} nor a JSON object "
            """such as '{"attempts": 5, "delays": [5, 60]}'"""
        )
    return found


def read_file(path: Path) -> bytes:
    """Return the bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from None


def key(text: str | None) -> str | None:
    """Return an idempotency key."""
    if text is not None and not _KEY.fullmatch(text):
        raise typer.BadParameter("--idempotency-key is 1 to 255 visible ASCII characters")
    return text


def not_before(text: str | None) -> str | float | None:
    """Return seconds from now, or a time, which the service reads."""
    return float(text) if text is not None and _SECONDS.fullmatch(text) else text
