"""`dispatcher jobs list`: find jobs; and the filters by which others find them too."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.filters import PANEL, Listing, Since, Tag, TakeDep, Until, given
from dispatcher.cli.service import ServiceDep
from dispatcher.client import Job, JobFilters
from dispatcher.client.calls.job import jobs_page
from dispatcher.jobs.states import JobReason, JobState
from dispatcher.jobs.values import JobPriority
from receiver.base import cli
from receiver.base.options import Depends, command

_WIDE: Final = 132  # from here on a job fits in one line with its full id

Status = Annotated[JobState | None, typer.Option(help="The job's state.", rich_help_panel=PANEL)]
Endpoint = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of this endpoint.", rich_help_panel=PANEL)
]
Priority = Annotated[JobPriority | None, typer.Option(help="Its class.", rich_help_panel=PANEL)]
EndReason = Annotated[
    JobReason | None,
    typer.Option(help="What stands beside its state.", rich_help_panel=PANEL, metavar="REASON"),
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
    fields = given(
        tag,
        status=status,
        endpoint=endpoint,
        priority=priority,
        reason=end_reason,
        since=since,
        until=until,
    )
    found: JobFilters = {}
    found.update(fields)  # type: ignore[typeddict-item]  # the names above are its fields
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
def list_jobs(service: ServiceDep, filters: FiltersDep, take: TakeDep) -> None:
    """Find jobs, newest first."""
    Listing(
        page=lambda cursor, limit: jobs_page(filters, cursor=cursor, limit=limit),
        table=job_table,
        what="jobs",
    ).print(service, take)


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
