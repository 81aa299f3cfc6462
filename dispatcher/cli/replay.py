"""`dispatcher replay`, `dispatcher cancel`: deliver again, or no more."""

import shlex
import sys
import time
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.filters import shown
from dispatcher.cli.listing import FiltersDep, callback_table
from dispatcher.cli.service import ChangingDep, Service, for_each
from dispatcher.cli.show import await_end
from dispatcher.client import Callback, Conflict, Filters, PostbackError, Preview, Replay
from dispatcher.client.calls import callback as calls
from dispatcher.client.retry import poll_s
from receiver.base import cli
from receiver.base.cli import Failed
from receiver.base.options import command, duration_s

_SAMPLE: Final = 10
_COUNTED: Final = 10_000  # where counting ends
WAIT_S: Final = 60.0

Timeout = Annotated[
    float,
    typer.Option(
        parser=duration_s,
        metavar="TIME",
        help="How long to wait for deliveries: 90, 15m, 2h; otherwise 1m.",
        show_default=False,
    ),
]

app = typer.Typer()


@command(
    app,
    "replay",
    "dispatcher replay cb_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a --wait",
    "dispatcher replay --status dead --tag team=a --since 24h --dry-run",
    "dispatcher replay --status dead --error http_503 --rate 50 --yes",
    "dispatcher replay --status pending --destination billing --yes   [dim]# try now[/dim]",
    "dispatcher replay rp_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a   [dim]# watch one again[/dim]",
)
def replay(
    service: ChangingDep,
    filters: FiltersDep,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Callbacks, or a filtered replay to watch."),
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
            "matches is on its way again, and was tried (default: yes).",
            show_default=False,
        ),
    ] = None,
    timeout: Timeout = WAIT_S,
) -> None:
    """Deliver again: same id, same bytes, history kept. Give ids, or filters for everything that
    matches; without --status only dead callbacks match.

    With `--status pending` what waits for its next try is tried now. At the end it says what was
    delivered and what failed again."""
    if ids:
        if filters or dry_run or rate is not None:
            raise typer.BadParameter("give ids, or filters with --dry-run and --rate, not both")
        for_each(service, ids, lambda service, id: _replay_one(service, id, timeout, bool(wait)))
        return
    if not filters:
        raise typer.BadParameter("give ids, or at least one filter such as --status dead")
    if dry_run:
        _preview(service, filters)
        return
    if not yes:
        _ask(service, filters, rate)
    start(service, filters, rate, timeout, wait=wait is not False)


def _replay_one(service: Service, id: str, timeout_s: float, wait: bool) -> None:
    if id.startswith("rp_"):
        _watch(service, id, timeout_s)
        return
    try:
        if wait:
            service.client.replay(id, reason=service.reason)
        else:
            _print_state(service.show(calls.replay(id, reason=service.reason)))
    except Conflict as error:
        raise _explained(service, id, error) from None
    if wait:
        await_end(service, id, timeout_s)


def _explained(service: Service, id: str, error: Conflict) -> PostbackError | Failed:
    """Return the error of a callback that cannot be replayed, with what can be done instead."""
    found = service.client.get(id)
    if found.status != "pending":
        return error
    job = shlex.quote(found.job_id)
    return Failed(
        error.message, f"to have it tried now: dispatcher replay --status pending --job-id {job}"
    )


def _preview(service: Service, filters: Filters) -> str:
    """Show what matches and return how many that are, in words; "" for none."""
    found = service.show(calls.preview_replay(filters))
    if found is None:
        return ""
    _print_preview(found)
    return _matched(found) if found.matched or not found.matched_exactly else ""


def _matched(found: Preview | Replay) -> str:
    """Return how many match, in words: a large set is not counted to its end."""
    if found.matched_exactly:
        return f"{found.matched:,}"
    return f"{'more than' if found.matched >= _COUNTED else 'at least'} {found.matched:,}"


def _print_preview(found: Preview) -> None:
    out = cli.console()
    out.print(cli.plain(f"{_matched(found)} match {shown(found.filter)}", "bold"))
    if found.sample:
        out.print()
        out.print(callback_table(found.sample[:_SAMPLE]))
        left = found.matched - len(found.sample[:_SAMPLE])
        if left > 0:
            more = f"{left:,} more" if found.matched_exactly else "more"
            out.print(f"… and {more}", style="dim")


def _ask(service: Service, filters: Filters, rate: float | None) -> None:
    """Show what matches and ask. Without somebody to ask it is refused."""
    if service.json or not sys.stdin.isatty():
        raise typer.BadParameter("no terminal to confirm on: add --yes (or look with --dry-run)")
    count = _preview(service, filters)
    if not count:
        raise typer.Exit(0)
    speed = f" at {rate:g} a second" if rate else ""
    if not typer.confirm(f"Replay {count}{speed}?", err=True):
        raise Failed("nothing was replayed")


def start(
    service: Service, filters: Filters, rate: float | None, timeout_s: float, *, wait: bool
) -> None:
    """Start a filtered replay, and watch it to its end unless it is not to `wait`."""
    call = calls.start_replay(filters, rate_per_second=rate, reason=service.reason)
    if wait:
        _watch(service, service.client.call(call).id, timeout_s)
        return
    started = service.show(call)
    if started is not None:
        cli.console().print(f"{cli.clean(started.id)}  replaying {_matched(started)}")


def _watch(service: Service, id: str, timeout_s: float) -> None:
    """Show a bar until everything that matched is on its way again, and then, for a while, until
    each was tried. Ctrl-C leaves it running."""
    try:
        with _bar(service) as bar:
            last = _watch_feeding(service, id, bar)
            last = _watch_outcomes(service, last, bar, timeout_s)
    except KeyboardInterrupt:
        raise Failed(f"{id} goes on without you", f"dispatcher replay {id}") from None
    if service.json:
        service.show(calls.get_replay(id))
    else:
        _print_end(last)


def _bar(service: Service) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=cli.error_console(),
        transient=True,
        disable=service.json or not sys.stderr.isatty(),
    )


def _watch_feeding(service: Service, id: str, bar: Progress) -> Replay:
    task = bar.add_task("replaying", total=None)
    while True:
        for last in service.client.watch_replay(id):
            total = last.matched if last.matched_exactly else None
            bar.update(task, total=total, completed=last.replayed + last.skipped)
            if last.final:
                return last


def _watch_outcomes(service: Service, last: Replay, bar: Progress, timeout_s: float) -> Replay:
    """Wait until each was tried once, but not for long: what waits may wait for hours."""
    ends_s, polls = time.monotonic() + timeout_s, 0
    task = bar.add_task("delivering", total=last.replayed)
    while last.outcomes is not None and last.outcomes.waiting and time.monotonic() < ends_s:
        bar.update(task, completed=max(0, last.replayed - last.outcomes.waiting))
        time.sleep(max(0.0, min(poll_s(polls), ends_s - time.monotonic())))
        last, polls = service.client.get_replay(last.id), polls + 1
    return last


def _print_end(last: Replay) -> None:
    gone = f", {last.skipped:,} skipped: they could not be" if last.skipped else ""
    out = cli.console()
    out.print(f"{last.state}: {last.replayed:,} of {_matched(last)} replayed{gone}")
    found = last.outcomes
    if found is None or not last.replayed:
        return
    parts = {
        "delivered": (found.delivered, "green"),
        "failed again, for good": (found.failed, "bold red"),
        "failed again, to be retried": (found.retrying, "yellow"),
        "not tried yet": (found.waiting, "dim"),
        "cancelled": (found.cancelled, "dim"),
    }
    texts = [Text(f"{count:,} {what}", style) for what, (count, style) in parts.items() if count]
    line = Text("" if found.exactly else "of the first of them: ").append_text(
        Text(", ").join(texts)
    )
    out.print(line)
    if found.failed or found.retrying:
        cli.error_console().print("see why: dispatcher failures", style="dim")
    if found.waiting:
        cli.error_console().print(f"look again: dispatcher replay {last.id}", style="dim")


@command(
    app,
    "cancel",
    "dispatcher cancel cb_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a",
    "dispatcher list --status pending --tag team=a --all --json | jq -r .id | xargs dispatcher "
    "cancel",
    "dispatcher cancel rp_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a   [dim]# a running replay[/dim]",
)
def cancel(
    service: ChangingDep,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID", help="Callbacks, or a filtered replay.")
    ],
) -> None:
    """Cancel deliveries. A running attempt ends and nothing follows it; a cancelled
    callback can still be replayed."""
    for_each(service, ids, _cancel_one)


def _cancel_one(service: Service, id: str) -> None:
    if id.startswith("rp_"):
        replay = service.show(calls.cancel_replay(id, reason=service.reason))
        if replay is not None:
            left = replay.matched - replay.replayed - replay.skipped
            more = f"{left:,}" if replay.matched_exactly else "more"
            cli.console().print(f"{cli.clean(id)} stopped with {more} left to replay")
        return
    _print_state(service.show(calls.cancel(id, reason=service.reason)))


def _print_state(callback: Callback | None) -> None:
    if callback is not None:
        line = cli.plain(callback.id).append("  ")
        cli.console().print(line.append_text(options.word(callback.status)))
