"""`dispatcher list`, `dispatcher failures`: find callbacks, and what fails; and the filters by
which `replay` finds them too."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import typer
from rich.table import Table
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.filters import PANEL, Listing, Since, Tag, TakeDep, Until, given
from dispatcher.cli.service import ServiceDep
from dispatcher.client import Callback, Failure, Failures, Filters
from dispatcher.client.calls import callback as calls
from dispatcher.states import State
from receiver.base import cli
from receiver.base.options import Depends, command

_WIDE: Final = 132  # from here on a callback fits in one line with its full id
_REASON_CHARS: Final = 400

Status = Annotated[State | None, typer.Option(help="State of the delivery.", rich_help_panel=PANEL)]
JobStatus = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="State of the job itself.", rich_help_panel=PANEL),
]
JobId = Annotated[
    str | None, typer.Option(metavar="ID", help="Callbacks of one job.", rich_help_panel=PANEL)
]
Destination = Annotated[
    str | None,
    typer.Option(metavar="ID|NAME|URL", help="Go to this destination.", rich_help_panel=PANEL),
]
CallbackUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Go to exactly this URL.", rich_help_panel=PANEL),
]
Priority = Annotated[
    Literal["high", "normal"] | None, typer.Option(help="Priority.", rich_help_panel=PANEL)
]
Error = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        help="Code of the last failed attempt: http_503, timeout, unreachable, …",
        rich_help_panel=PANEL,
    ),
]


def chosen_filters(
    status: Status = None,
    job_status: JobStatus = None,
    job_id: JobId = None,
    tag: Tag = None,
    destination: Destination = None,
    callback_url: CallbackUrl = None,
    priority: Priority = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
) -> Filters:
    """Return the filter that the options describe."""
    fields = given(
        tag,
        status=status,
        job_status=job_status,
        job_id=job_id,
        destination=destination,
        callback_url=callback_url,
        priority=priority,
        error=error,
        since=since,
        until=until,
    )
    found: Filters = {}
    found.update(fields)  # type: ignore[typeddict-item]  # the names above are its fields
    return found


FiltersDep = Annotated[Filters, Depends(chosen_filters)]
app = typer.Typer()


@command(
    app,
    "list",
    "dispatcher list --status dead --since 24h",
    "dispatcher list --tag team=a --error http_503 --limit 100",
    "dispatcher list --job-id job_1234567890abcdef",
    "dispatcher list --status dead --all --json | jq -r .id",
)
def list_callbacks(service: ServiceDep, filters: FiltersDep, take: TakeDep) -> None:
    """Find callbacks by what happened to them, newest first; of those that wait it says what
    for."""
    Listing(
        page=lambda cursor, limit: calls.page(filters, cursor=cursor, limit=limit),
        table=callback_table,
        what="callbacks",
    ).print(service, take)


@command(
    app,
    "failures",
    "dispatcher failures --since 2h",
    "dispatcher failures --destination https://example.com --output json",
)
def failures(service: ServiceDep, filters: FiltersDep) -> None:
    """See what fails: dead callbacks, and those that wait for another try, by destination and
    error, the most first. A platform key sees why a destination was not reached, too."""
    response = service.client.raw(calls.failures(filters))
    found = calls.failures(filters).read(response)
    if service.json:
        service.print_document(response.body)
        return
    if not found.data:
        cli.error_console().print("nothing fails", style="dim")
        service.hint_at_tenant()
        return
    cli.console().print(_failure_table(found))
    if not found.complete:
        cli.error_console().print("of the newest only: narrow it by --since", style="dim")
    dead = next((one for one in found.data if one.status == "dead"), None)
    if dead is not None:
        where = dead.destination_name or dead.url or dead.destination
        hint = f"once it is well: dispatcher replay --status dead --destination {where}"
        cli.error_console().print(cli.plain(hint, "dim"))


def _failure_table(found: Failures) -> Table:
    made = cli.table("STATUS", "COUNT", "WHAT FAILS", right=("COUNT",), fold="WHAT FAILS")
    for one in found.data:
        made.add_row(options.word(one.status), f"{one.count:,}", _failure(one))
    return made


def _failure(one: Failure) -> Text:
    """Return where, how, since when, why and an example."""
    where = cli.plain(one.destination_name or one.url or one.destination, "bold")
    newest = f"newest {cli.ago(one.newest_at)}"
    error = one.error or "ended before it was tried"
    how = cli.plain(f"{error}{f' ({one.cause})' if one.cause else ''}", "red")
    how.append_text(cli.plain(f" · {newest}, oldest {cli.ago(one.oldest_at)}", "dim"))
    why = one.detail or one.response_excerpt or one.message
    reason = [cli.plain(cli.short(why, _REASON_CHARS))] if why else []
    return cli.lines(where, how, *reason, cli.plain(f"such as {one.sample}", "dim"))


def callback_table(callbacks: Sequence[Callback]) -> Table:
    """Callbacks for people: one line each where there is room, else two."""
    wide = cli.console().width >= _WIDE
    return _wide(callbacks) if wide else _narrow(callbacks)


def _wide(callbacks: Sequence[Callback]) -> Table:
    made = cli.table(
        "STATUS", "ID", "JOB", "DESTINATION", "TRIES", "AGE", "NOTE", widths=options.STATE_WIDTHS
    )
    made.columns[1].min_width = len(callbacks[0].id) if callbacks else None
    for callback in callbacks:
        made.add_row(
            options.word(callback.status),
            cli.plain(callback.id),
            _job(callback),
            cli.plain(_where(callback)),
            cli.plain(callback.attempts),
            cli.plain(cli.ago(callback.created_at)),
            _note(callback),
        )
    return made


def _narrow(callbacks: Sequence[Callback]) -> Table:
    made = cli.table("STATUS", "CALLBACK", widths=options.STATE_WIDTHS, fold="CALLBACK")
    for callback in callbacks:
        made.add_row(
            cli.lines(
                options.word(callback.status),
                cli.plain(f"  {cli.ago(callback.created_at)}", "dim"),
            ),
            cli.lines(
                cli.plain(callback.id).append("  ").append_text(_job(callback)),
                cli.plain(f"{_where(callback)}  ").append_text(_note(callback)),
            ),
        )
    return made


def _job(callback: Callback) -> Text:
    job = cli.plain(callback.job_id, "bold")
    if callback.job_status is not None:
        job.append_text(cli.plain(f" {callback.job_status}", "dim"))
    return job


def _where(callback: Callback) -> str:
    """Return the destination's name, else its host and path: the scheme tells nothing new."""
    if callback.destination_name is not None:
        return callback.destination_name
    parts = urlsplit(callback.callback_url)
    return f"{parts.netloc}{parts.path}"


def _note(callback: Callback) -> Text:
    """Return what an operator wants to know next."""
    if callback.status == "pending":
        waits = cli.plain(options.waits(callback), "dim")
        if callback.last_error is None:
            return waits
        return cli.plain(callback.last_error, "yellow").append(" · ").append_text(waits)
    if callback.last_error is not None and callback.status != "delivered":
        tries = f" · {callback.attempts} attempt{'s' if callback.attempts != 1 else ''}"
        return cli.plain(callback.last_error, "red").append(tries, style="dim")
    if callback.delivered_at is not None:
        took = (callback.delivered_at - callback.created_at).total_seconds()
        return cli.plain(f"after {cli.span(took)}", "dim")
    return Text()
