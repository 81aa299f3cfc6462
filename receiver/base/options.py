"""Options that both command lines share: how commands take them, how times are written, and the
forms of what is printed.

A parameter annotated with `Depends(maker)` is no option itself: `maker` declares options of its
own, and what it returns is handed in. So what many commands need is declared once. An option of the
command's own wins over one of the same name. What cannot be read raises typer.BadParameter, which
says how it should look.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeAlias

import typer

from receiver.base import cli
from receiver.base.cli import Run
from receiver.base.clock import iso, parse_iso

_SPAN: Final = re.compile(r"(\d{1,10}(?:\.\d{1,3})?)(ms|s|m|h|d|w)")
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

PANEL: Final = "The service"
"""Under which the options that say where it is stand in a help."""

Form: TypeAlias = Literal["table", "json", "ndjson"]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON for programs; of lists one object a line."),
]
Output = Annotated[
    Form | None,
    typer.Option(
        "--output",
        help="For people a table; for programs one JSON document, or one object a line.",
        show_default=False,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of the config file (`~/.config/postback/config.toml`): where the service is, and the "
        "key.",
        rich_help_panel=PANEL,
    ),
]
Host = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where to listen.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65_535, metavar="N", help="0 takes a free one.")
]

_Parameters = Mapping[str, inspect.Parameter]


# --- how commands take options ---


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
    visible = {name: parameter for name, parameter in own.items() if name not in makers}
    taken = {word for parameter in visible.values() for word in _option_words(parameter)}
    needed = {
        name: {key: it for key, it in _parameters(maker).items() if not taken & _option_words(it)}
        for name, maker in makers.items()
    }
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


def _option_words(parameter: inspect.Parameter) -> set[str]:
    """Return the words that an option names itself, such as `--output`."""
    marks = getattr(parameter.annotation, "__metadata__", ())
    options = [mark for mark in marks if hasattr(mark, "param_decls")]
    # Inside `Annotated` the first of them stands where a default would.
    words = [word for it in options for word in (it.default, *(it.param_decls or ()))]
    return {word for word in words if isinstance(word, str) and word.startswith("-")}


# --- what is printed ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Printing:
    """For whom to print: `json` for programs, and then a list as an `array` or, where that was said
    (`is_lines`) or nothing else was, one object a line."""

    json: bool = False
    array: bool = False
    is_lines: bool = False


def printing(as_json: bool, output: Form | None, before: Printing | None = None) -> Printing:
    """Return what these options say; without any of them what was said `before`."""
    if as_json and output == "table":
        raise typer.BadParameter("--json and --output table exclude each other")
    if output is not None:
        return Printing(json=output != "table", array=output == "json", is_lines=output == "ndjson")
    return Printing(json=True) if as_json else before or Printing()


def print_rows(how: Printing, rows: Iterable[bytes]) -> None:
    """Print JSON documents for programs: one a line, or all as one array."""
    if how.array:
        cli.print_json_array(rows)
    else:
        cli.print_json_lines(rows)


# --- times ---


def moment(text: str) -> str:
    """Return `2h` ago, or a time, as ISO-8601."""
    span_s = _span_s(text)
    try:
        if span_s is not None:
            at = datetime.now(UTC) - timedelta(seconds=span_s)
            return iso(max(0, int(at.timestamp() * 1000)))
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


def duration_s(text: str | float) -> float:
    """`90`, `30s`, `15m`, `2h` or `1d` as seconds."""
    span_s = _span_s(f"{text}s" if str(text).strip()[-1:].isdigit() else str(text))
    if span_s is None:
        raise typer.BadParameter(f"{text!r} is not a length of time: write 90, 30s, 15m, 2h or 1d")
    return span_s


def _span_s(text: str) -> float | None:
    found = _SPAN.fullmatch(text.strip())
    return None if found is None else float(found[1]) * _UNITS[found[2]]
