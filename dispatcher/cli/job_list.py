"""`dispatcher jobs list`: find jobs; and the filters by which others find them too."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.options import Depends, command
from dispatcher.cli.service import Service, ServiceDep, pages
from dispatcher.client import Job, JobFilters, Page
from dispatcher.client.calls.job import jobs_page
from dispatcher.client.transport import Call
from dispatcher.jobs.states import JobReason, JobState
from dispatcher.jobs.values import JobPriority
from receiver.base import cli

_WIDE: Final = 132  # from here on a job fits in one line with its full id
_PAGE_MAX: Final = 500  # what one request may ask for
_LIMIT: Final = 20
_PANEL: Final = "Which jobs"

Status = Annotated[JobState | None, typer.Option(help="The job's state.", rich_help_panel=_PANEL)]
Endpoint = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of this endpoint.", rich_help_panel=_PANEL)
]
Tag = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Carry this tag (repeatable).", rich_help_panel=_PANEL),
]
Priority = Annotated[JobPriority | None, typer.Option(help="Its class.", rich_help_panel=_PANEL)]
EndReason = Annotated[
    JobReason | None,
    typer.Option(help="What stands beside its state.", rich_help_panel=_PANEL, metavar="REASON"),
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
    endpoint: Endpoint = None,
    tag: Tag = None,
    priority: Priority = None,
    end_reason: EndReason = None,
    since: Since = None,
    until: Until = None,
) -> JobFilters:
    """Return the filter that the options describe."""
    fields = {
        "status": status,
        "endpoint": endpoint,
        "priority": priority,
        "reason": end_reason,
        "since": since,
        "until": until,
        "tags": options.pairs(tag, "--tag") or None,
    }
    found: JobFilters = {}
    found.update({name: value for name, value in fields.items() if value is not None})  # type: ignore[typeddict-item]  # the names above are its fields
    return found


FiltersDep = Annotated[JobFilters, Depends(chosen_filters)]
group = typer.Typer(no_args_is_help=True)


@command(
    group,
    "list",
    "dispatcher jobs list --status failed --since 24h",
    "dispatcher jobs list --endpoint document-gen --tag team=a --limit 100",
    "dispatcher jobs list --status queued --all --json | jq -r .id",
)
def list_jobs(
    service: ServiceDep,
    filters: FiltersDep,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help=f"How many. (default: {_LIMIT})")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All of them, page by page.")] = False,
) -> None:
    """Find jobs, newest first."""
    if all and limit is not None:
        raise typer.BadParameter("--all and --limit exclude each other")
    rows_max = None if all else limit or _LIMIT
    rows = islice(_rows(service, filters, rows_max), rows_max)
    if service.json:
        cli.print_json_lines(came for _, came in rows)
        return
    shown = 0
    while found := list(islice(rows, _PAGE_MAX)):  # a long list shows from its beginning
        cli.console().print(job_table([job for job, _ in found]))
        shown += len(found)
    if not shown:
        cli.error_console().print("no jobs match", style="dim")
    elif shown == rows_max:
        note = f"the newest {rows_max}; --limit N or --all shows more"
        cli.error_console().print(note, style="dim")


def _rows(
    service: Service, filters: JobFilters, rows_max: int | None
) -> Iterator[tuple[Job, bytes]]:
    """Yield each job with the JSON that it came as, page after page."""
    left = rows_max

    def build(cursor: str | None) -> Call[Page[Job]]:
        limit = _PAGE_MAX if left is None else min(left, _PAGE_MAX)
        return jobs_page(filters, cursor=cursor, limit=limit)

    for found in pages(service, build):
        yield from found
        left = None if left is None else max(1, left - len(found))


def job_table(jobs: Sequence[Job]) -> Table:
    """Jobs for people: one line each where there is room, else two."""
    return _wide(jobs) if cli.console().width >= _WIDE else _narrow(jobs)


def _wide(jobs: Sequence[Job]) -> Table:
    made = cli.table(
        "STATUS", "ID", "ENDPOINT", "RUN", "CALLS", "AGE", "NOTE", widths=options.STATE_WIDTHS
    )
    made.columns[1].min_width = len(jobs[0].id) if jobs else None
    for job in jobs:
        made.add_row(
            options.word(job.status),
            cli.plain(job.id),
            cli.plain(job.endpoint, "bold"),
            cli.plain(job.run),
            cli.plain(job.attempts),
            cli.plain(cli.ago(job.created_at)),
            _note(job),
        )
    return made


def _narrow(jobs: Sequence[Job]) -> Table:
    made = cli.table("STATUS", "JOB", widths=options.STATE_WIDTHS)
    made.columns[1].min_width = len(jobs[0].id) if jobs else None
    for job in jobs:
        age = cli.plain(f"  {cli.ago(job.created_at)}", "dim")
        where = cli.plain(job.endpoint, "bold").append("  ").append_text(_note(job))
        made.add_row(cli.lines(options.word(job.status), age), cli.lines(cli.plain(job.id), where))
    return made


def _note(job: Job) -> Text:
    """Return what an operator wants to know next."""
    tags = " ".join(f"{name}={value}" for name, value in job.tags.items())
    note = Text()
    if job.reason is not None:
        code = "" if job.status_code is None else f" {job.status_code}"
        note = cli.plain(f"{job.reason}{code}  ", "red" if job.status != "cancelled" else "dim")
    elif job.final and job.started_at is not None and job.ended_at is not None:
        note = cli.plain(f"in {cli.span((job.ended_at - job.started_at).total_seconds())}  ", "dim")
    return note.append_text(cli.plain(tags, "dim"))
