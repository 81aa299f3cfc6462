"""Doing one thing to each of several ids: one that fails does not stop the rest."""

from collections.abc import Callable, Sequence

import typer

from dispatcher.cli.failure import report
from dispatcher.cli.service import Service
from dispatcher.client import PostbackError, Unauthorized, Unreachable


def each(service: Service, ids: Sequence[str], act: Callable[[Service, str], None]) -> None:
    """Call `act` for each id; exits with 1 at the end if any failed."""
    failed = False
    for id in dict.fromkeys(ids):
        try:
            act(service, id)
        except (Unreachable, Unauthorized):
            raise  # the next one would meet the same
        except PostbackError as error:
            report(error, about=id)
            failed = True
    if failed:
        raise typer.Exit(1)
