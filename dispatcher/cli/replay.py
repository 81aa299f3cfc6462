"""`dispatcher replay`: deliver again, one by one or everything that matches."""

import sys
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dispatcher.cli import filters, output
from dispatcher.cli.each import each
from dispatcher.cli.failure import Failed
from dispatcher.cli.listing import callback_table
from dispatcher.cli.options import Makers, register
from dispatcher.cli.service import Service, connect
from dispatcher.cli.waiting import await_end
from dispatcher.client import Filters, Preview, calls

_EXAMPLES: Final = (
    "dispatcher replay cb_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a --wait",
    "dispatcher replay --status dead --tag team=a --since 24h --dry-run",
    "dispatcher replay --status dead --error http_503 --rate 50 --yes",
    "dispatcher replay rp_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a   [dim]# watch one again[/dim]",
)
_SAMPLE: Final = 10
_WAIT_S: Final = 60.0


def add(app: typer.Typer, panel: str) -> None:
    """Register the command."""
    makers: Makers = {"service": connect, "wanted": filters.chosen}
    register(app, "replay", replay, _EXAMPLES, panel=panel, makers=makers)


def replay(
    service: Service,
    wanted: Filters,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID…]", help="Callbacks, or a filtered replay to watch."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be replayed.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=10_000, metavar="N", help="At most N a second."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[
        bool | None,
        typer.Option(
            "--wait/--no-wait",
            help="Wait until the end: of each callback (default: no), or until everything that "
            "matches is on its way again (default: yes).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Deliver again: same id, same bytes, history kept. Give ids, or filters for everything that
    matches; without --status only dead callbacks match."""
    if ids:
        if wanted or dry_run or rate is not None:
            raise typer.BadParameter("give ids, or filters with --dry-run and --rate, not both")
        each(service, ids, lambda service, id: _one(service, id, wait=bool(wait)))
        return
    if not wanted:
        raise typer.BadParameter("give ids, or at least one filter such as --status dead")
    if dry_run:
        _preview(service, wanted)
        return
    if not yes:
        _ask(service, wanted, rate)
    _start(service, wanted, rate, wait=wait is not False)


def _one(service: Service, id: str, *, wait: bool) -> None:
    if id.startswith("rp_"):
        _watch(service, id)
    elif wait:
        service.client.replay(id)
        await_end(service, id, _WAIT_S)
    else:
        callback = service.show(calls.replay(id))
        if callback is not None:
            line = output.plain(callback.id).append("  ")
            output.console().print(line.append_text(output.word(callback.status)))


def _preview(service: Service, wanted: Filters) -> int:
    """Show what matches; returns how many."""
    found = service.show(calls.preview_replay(wanted))
    if found is None:
        return 0
    _print_preview(found)
    return found.matched


def _print_preview(found: Preview) -> None:
    out = output.console()
    shown = " ".join(f"{name}={value}" for name, value in found.filter.items())
    out.print(output.plain(f"{found.matched:,} match {shown}", "bold"))
    if found.sample:
        out.print()
        out.print(callback_table(found.sample[:_SAMPLE]))
        left = found.matched - len(found.sample[:_SAMPLE])
        if left > 0:
            out.print(f"… and {left:,} more", style="dim")


def _ask(service: Service, wanted: Filters, rate: float | None) -> None:
    """Show what matches and ask. Without somebody to ask it is refused."""
    if service.json or not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to confirm: add --yes (or look with --dry-run)")
    count = _preview(service, wanted)
    if not count:
        raise typer.Exit(0)
    speed = f" at {rate:g} a second" if rate else ""
    if not typer.confirm(f"Replay {count:,}{speed}?", err=True):
        raise Failed("nothing was replayed")


def _start(service: Service, wanted: Filters, rate: float | None, *, wait: bool) -> None:
    call = calls.start_replay(wanted, rate_per_second=rate)
    if wait:
        _watch(service, service.client.call(call).id)
        return
    started = service.show(call)
    if started is not None:
        output.console().print(f"{output.clean(started.id)}  replaying {started.matched:,}")


def _watch(service: Service, id: str) -> None:
    """Return a bar until everything that matched is on its way again. Ctrl-C leaves it running."""
    if service.json:
        for _ in service.client.watch_replay(id):
            pass
        service.show(calls.get_replay(id))
        return
    bar = Progress(
        TextColumn("replaying"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=output.error_console(),
        transient=True,
    )
    try:
        last = None
        with bar:
            task = bar.add_task("", total=None)
            for last in service.client.watch_replay(id):
                bar.update(task, total=last.matched, completed=last.replayed + last.skipped)
    except KeyboardInterrupt:
        raise Failed(f"{id} goes on without you", f"dispatcher replay {id}") from None
    if last is not None:
        gone = f", {last.skipped:,} skipped: their payload is gone" if last.skipped else ""
        output.console().print(
            f"{last.state}: {last.replayed:,} of {last.matched:,} replayed{gone}"
        )
