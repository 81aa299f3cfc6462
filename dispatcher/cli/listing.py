"""`dispatcher list`: find callbacks; and the filters by which `replay` finds them too."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import typer
from rich.table import Table
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.options import Depends, command
from dispatcher.cli.service import Service, ServiceDep, pages
from dispatcher.client import Callback, Filters, Page
from dispatcher.client.calls.callback import page
from dispatcher.client.transport import Call
from dispatcher.states import State
from receiver.base import cli

_WIDE: Final = 132  # from here on a callback fits in one line with its full id
_PAGE_MAX: Final = 500  # what one request may ask for
_LIMIT: Final = 20
_PANEL: Final = "Which callbacks"

Status = Annotated[
    State | None, typer.Option(help="State of the delivery.", rich_help_panel=_PANEL)
]
JobStatus = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="State of the job itself.", rich_help_panel=_PANEL),
]
JobId = Annotated[
    str | None, typer.Option(metavar="ID", help="Callbacks of one job.", rich_help_panel=_PANEL)
]
Tag = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Carry this tag (repeatable).", rich_help_panel=_PANEL),
]
Destination = Annotated[
    str | None,
    typer.Option(metavar="ID|NAME|SERVER", help="Go to this destination.", rich_help_panel=_PANEL),
]
CallbackUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Go to exactly this URL.", rich_help_panel=_PANEL),
]
Priority = Annotated[
    Literal["high", "normal"] | None, typer.Option(help="Priority.", rich_help_panel=_PANEL)
]
Error = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        help="Code of the last failed attempt: http_503, timeout, unreachable, …",
        rich_help_panel=_PANEL,
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        parser=options.moment,
        help="Made at this time or later: 30m, 2h, 7d (ago), or ISO-8601.",
        rich_help_panel=_PANEL,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        parser=options.moment,
        help="Made before this time.",
        rich_help_panel=_PANEL,
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
    fields = {
        "status": status,
        "job_status": job_status,
        "job_id": job_id,
        "destination": destination,
        "callback_url": callback_url,
        "priority": priority,
        "error": error,
        "since": since,
        "until": until,
        "tags": options.pairs(tag, "--tag") or None,
    }
    found: Filters = {}
    found.update({name: value for name, value in fields.items() if value is not None})  # type: ignore[typeddict-item]  # the names above are its fields
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
def list_callbacks(
    service: ServiceDep,
    filters: FiltersDep,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help=f"How many. (default: {_LIMIT})")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All of them, page by page.")] = False,
) -> None:
    """Find callbacks by what happened to them, newest first."""
    if all and limit is not None:
        raise typer.BadParameter("--all and --limit exclude each other")
    rows_max = None if all else limit or _LIMIT
    rows = islice(_rows(service, filters, rows_max), rows_max)
    if service.json:
        cli.print_json_lines(came for _, came in rows)
    else:
        _print(rows, rows_max)


def _rows(
    service: Service, filters: Filters, rows_max: int | None
) -> Iterator[tuple[Callback, bytes]]:
    """Yield each callback with the JSON that it came as, page after page."""
    left = rows_max

    def build(cursor: str | None) -> Call[Page[Callback]]:
        return page(
            filters, cursor=cursor, limit=_PAGE_MAX if left is None else min(left, _PAGE_MAX)
        )

    for found in pages(service, build):
        yield from found
        left = None if left is None else max(1, left - len(found))


def _print(rows: Iterator[tuple[Callback, bytes]], rows_max: int | None) -> None:
    """Tables of a page each, so that a long list shows from its beginning."""
    shown = 0
    while found := list(islice(rows, _PAGE_MAX)):
        cli.console().print(callback_table([callback for callback, _ in found]))
        shown += len(found)
    if not shown:
        cli.error_console().print("no callbacks match", style="dim")
    elif shown == rows_max:
        note = f"the newest {rows_max}; --limit N or --all shows more"
        cli.error_console().print(note, style="dim")


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
    made = cli.table("STATUS", "CALLBACK", "DESTINATION", widths=options.STATE_WIDTHS)
    made.columns[1].min_width = len(callbacks[0].id) if callbacks else None
    for callback in callbacks:
        made.add_row(
            cli.lines(
                options.word(callback.status),
                cli.plain(f"  {cli.ago(callback.created_at)}", "dim"),
            ),
            cli.lines(cli.plain(callback.id), _job(callback)),
            cli.lines(cli.plain(_where(callback)), _note(callback)),
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
    if callback.status == "pending" and callback.next_attempt_at is not None:
        due = cli.plain(options.due(callback.next_attempt_at), "dim")
        if callback.last_error is None:
            return due
        return cli.plain(callback.last_error, "yellow").append(" · ").append_text(due)
    if callback.last_error is not None and callback.status != "delivered":
        tries = f" · {callback.attempts} attempt{'s' if callback.attempts != 1 else ''}"
        return cli.plain(callback.last_error, "red").append(tries, style="dim")
    if callback.delivered_at is not None:
        took = (callback.delivered_at - callback.created_at).total_seconds()
        return cli.plain(f"after {cli.span(took)}", "dim")
    return Text()
