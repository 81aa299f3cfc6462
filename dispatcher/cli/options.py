"""Commands, and the options that many of them share.

A parameter annotated with `Depends(maker)` is no option itself: `maker` declares options of its
own, and what it returns is handed in. So a command that takes a `Service` has `--url`, `--api-key`,
`--tenant` and `--json`, declared once.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import typer

from receiver.base import cli
from receiver.base.cli import Run

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
