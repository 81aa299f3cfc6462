"""The filter options that `list` and `replay` share."""

from typing import Annotated, Final, Literal

import typer

from dispatcher.cli import values
from dispatcher.client import Filters
from dispatcher.states import State

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
    typer.Option(metavar="ID|NAME|URL", help="Go to this destination.", rich_help_panel=_PANEL),
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
        parser=values.moment,
        help="Made at this time or later: 30m, 2h, 7d (ago), or ISO-8601.",
        rich_help_panel=_PANEL,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        parser=values.moment,
        help="Made before this time.",
        rich_help_panel=_PANEL,
    ),
]


def chosen(
    status: Status = None,
    job_status: JobStatus = None,
    job_id: JobId = None,
    tag: Tag = None,
    destination: Destination = None,
    priority: Priority = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
) -> Filters:
    """Return the filter that the options describe."""
    given = {
        "status": status,
        "job_status": job_status,
        "job_id": job_id,
        "destination": destination,
        "priority": priority,
        "error": error,
        "since": since,
        "until": until,
        "tags": values.pairs(tag, "--tag") or None,
    }
    found: Filters = {}
    found.update({name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]  # the names above are its fields
    return found
