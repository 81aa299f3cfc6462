"""`dispatcher stats`: how it stands."""

import time
from typing import Annotated, Final

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dispatcher.cli import values
from dispatcher.cli.options import command
from dispatcher.cli.service import Service, ServiceDep
from dispatcher.client import Stats, calls
from receiver.base import cli

_EVERY_S: Final = 1.0


app = typer.Typer()


@command(
    app, "stats", "dispatcher stats", "dispatcher stats --watch", "dispatcher stats --all --json"
)
def stats(
    service: ServiceDep,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Again every second, until Ctrl-C.")
    ] = False,
    all_tenants: Annotated[
        bool, typer.Option("--all", help="Of all tenants together (platform keys).")
    ] = False,
) -> None:
    """Show a tenant's counts and rates: callbacks by state, the oldest waiting one."""
    if watch:
        _watch(service, all_tenants)
        return
    found = service.show(calls.stats(all_tenants=all_tenants))
    if found is not None:
        cli.console().print(_table(found))


def _watch(service: Service, all_tenants: bool) -> None:
    try:
        if service.json:
            while service.show(calls.stats(all_tenants=all_tenants)) is None:
                time.sleep(_EVERY_S)
        with Live(console=cli.console(), auto_refresh=False) as live:
            while True:
                live.update(_table(service.client.stats(all_tenants=all_tenants)), refresh=True)
                time.sleep(_EVERY_S)
    except KeyboardInterrupt:
        return


def _table(found: Stats) -> Table:
    made = cli.table("CALLBACKS", "", "PER SECOND, LAST MINUTE", "", right=("",))
    rates = (
        ("accepted", found.accepted_per_second),
        ("delivered", found.delivered_per_second),
        ("failed attempts", found.failed_attempts_per_second),
    )
    oldest = found.oldest_pending_at
    waiting = (("oldest waiting", "none" if oldest is None else cli.ago(oldest)),)
    right = [(name, f"{rate:,.1f}") for name, rate in rates] + [("", ""), *waiting]
    left = [(values.word(state), f"{count:,}") for state, count in found.counts.items()]
    for at in range(max(len(left), len(right))):
        state, count = left[at] if at < len(left) else (Text(), "")
        name, figure = right[at] if at < len(right) else ("", "")
        made.add_row(state, count, name, figure)
    return made
