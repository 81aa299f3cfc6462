"""The options that every command has, before its name as behind it. They need no client."""

from dataclasses import dataclass
from typing import Annotated, Final

import typer

from dispatcher.cli.options import Depends

PANEL: Final = "The service"
"""Under which they stand in the help."""

Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where it is; otherwise DISPATCHER_URL, else host and port.",
        rich_help_panel=PANEL,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Otherwise DISPATCHER_API_KEY, or the file DISPATCHER_API_KEY_FILE, which other users "
        "of this machine cannot see.",
        rich_help_panel=PANEL,
    ),
]
Tenant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The tenant to act for, with a platform key; otherwise `default`.",
        rich_help_panel=PANEL,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON for programs; of lists one object a line."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The shared options as given before the command's name."""

    url: str | None = None
    api_key: str | None = None
    tenant: str | None = None
    json: bool = False


def json_wanted(context: typer.Context, as_json: AsJson = False) -> bool:
    """Whether to print for programs, for commands that need no running service."""
    before: Globals = context.obj or Globals()
    return as_json or before.json


JsonDep = Annotated[bool, Depends(json_wanted)]
