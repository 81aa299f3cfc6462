"""What people type and read in options: tags, headers, policies, keys; states in words. What
cannot be read raises typer.BadParameter, which says how it should look."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import typer
from rich.text import Text

from dispatcher.client import Callback
from dispatcher.client.results import wait_words
from dispatcher.policy import PRESETS
from receiver.base.cli import ago
from receiver.base.options import duration_s

_HEADER: Final = re.compile(r"([^:\s]+):\s*(.*)", re.DOTALL)
_KEY: Final = re.compile(r"[!-~]{1,255}")
_SPAN: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h|d|w)?")
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
    "rejecting": ("✗", "bold red"),
    "circuit-open": ("✗", "bold red"),
    "disabled": ("–", "dim"),
    "paused": ("‖", "yellow"),
}
STATE_WIDTHS: Final = {"STATUS": len("● delivered"), "HEALTH": len("✗ rejecting (401)")}


def word(state: str) -> Text:
    """Return a state or a health as a mark and a word in its colour."""
    mark, style = _LOOKS.get(state, ("", ""))
    return Text(f"{mark} {state}".lstrip(), style=style)


def waits(callback: Callback) -> str:
    """Return what a pending callback waits for, with its end: `next try in 4m`, `billing is
    paused`; of a service that does not tell, when it is due."""
    due = callback.next_attempt_at
    if callback.waits_for is None and due is not None:
        return f"{'next try' if due > datetime.now(UTC) else 'due'} {ago(due)}"
    return wait_words(callback, ago)


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
    """Return `90` or `15m` from now as seconds, or a time, which the service reads."""
    if text is None or not _SPAN.fullmatch(text):
        return text
    return duration_s(text)
