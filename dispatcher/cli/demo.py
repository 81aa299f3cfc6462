"""`dispatcher demo`: the demonstration."""

from typing import Any

import typer

from dispatcher.cli import failure
from dispatcher.cli.options import examples


def add(app: typer.Typer, **panel: Any) -> None:
    """Register the command."""
    app.command("demo", epilog=examples("dispatcher demo"), **panel)(demo)


def demo() -> None:
    """See it work, in less than a minute: real processes on free ports of this machine live
    through an outage, a slow customer, a kill -9, duplicates and a dead letter. Leaves nothing
    behind."""
    from dispatcher.demo.run import run  # the other commands start faster without it

    if run() != 0:
        raise failure.Failed("the demo's numbers are wrong")
