"""Options that many commands share, declared once."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import typer

Makers = Mapping[str, Callable[..., object]]
"""Parameters of a command that are made from options of their own, by name."""


def with_options(run: Callable[..., None], **makers: Callable[..., Any]) -> Callable[..., None]:
    """`run`, as a command that takes the options of each maker beside its own.

    `with_options(run, service=connect)` calls `connect` with the options it declares and hands the
    result to `run` as `service`; one that is a context manager is entered around `run`.
    """
    needed = {name: _parameters(maker) for name, maker in makers.items()}
    own = {name: it for name, it in _parameters(run).items() if name not in makers}

    def command(**given: Any) -> None:
        with ExitStack() as stack:
            made = {name: _make(stack, makers[name], needed[name], given) for name in makers}
            run(**{name: given[name] for name in own}, **made)

    for name, parameters in needed.items():
        taken = [it for it in parameters if it in own and parameters[it] != own[it]]
        if taken:
            raise TypeError(f"{run.__name__} and {name} both declare {taken}")
    shared = {name: it for parameters in needed.values() for name, it in parameters.items()}
    shown = {**own, **shared}
    command.__doc__ = run.__doc__
    command.__name__ = run.__name__
    command.__annotations__ = {name: it.annotation for name, it in shown.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # typer reads it
        [it.replace(kind=inspect.Parameter.KEYWORD_ONLY) for it in shown.values()]
    )
    return command


def _parameters(run: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(run, eval_str=True).parameters)


def _make(
    stack: ExitStack,
    maker: Callable[..., Any],
    parameters: dict[str, inspect.Parameter],
    given: dict[str, Any],
) -> Any:
    made = maker(**{name: given[name] for name in parameters})
    return stack.enter_context(made) if isinstance(made, AbstractContextManager) else made


def examples(*lines: str) -> str:
    """Return the end of a command's help: one example a line, as it is typed."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  [dim]$[/dim] {line}" for line in lines)])


def register(
    app: typer.Typer,
    name: str,
    run: Callable[..., None],
    shown: Sequence[str],
    *,
    panel: str | None = None,
    makers: Makers,
) -> None:
    """Add a command: its docstring is its help, the first sentence of it the line in the list of
    commands, `shown` its examples."""
    text = inspect.getdoc(run) or ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    app.command(
        name,
        help="\n\n".join(paragraphs),
        short_help=re.split(r"(?<=[.:]) |\.$", paragraphs[0])[0].rstrip(".:"),
        epilog=examples(*shown),
        rich_help_panel=panel,
    )(with_options(run, **makers))
