"""`dispatcher cancel`: deliver no more."""

from typing import Annotated, Final

import typer

from dispatcher.cli import output
from dispatcher.cli.each import each
from dispatcher.cli.options import register
from dispatcher.cli.service import SERVICE, Service
from dispatcher.client import calls

_EXAMPLES: Final = (
    "dispatcher cancel cb_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a",
    "dispatcher list --status pending --tag team=a --all --json | jq -r .id | xargs dispatcher "
    "cancel",
    "dispatcher cancel rp_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a   [dim]# a running replay[/dim]",
)


def add(app: typer.Typer, panel: str) -> None:
    """Register the command."""
    register(app, "cancel", cancel, _EXAMPLES, panel=panel, makers=SERVICE)


def cancel(
    service: Service,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID…", help="Callbacks, or a filtered replay.")
    ],
) -> None:
    """Deliver these callbacks no more. A running attempt ends and nothing follows it; a cancelled
    callback can still be replayed."""
    each(service, ids, _cancel)


def _cancel(service: Service, id: str) -> None:
    if id.startswith("rp_"):
        replay = service.show(calls.cancel_replay(id))
        if replay is not None:
            left = replay.matched - replay.replayed - replay.skipped
            output.console().print(f"{output.clean(id)} stopped with {left:,} left to replay")
        return
    callback = service.show(calls.cancel(id))
    if callback is not None:
        line = output.plain(callback.id).append("  ")
        output.console().print(line.append_text(output.word(callback.status)))
