"""The options that every command has, before its name as behind it. They need no client."""

from dataclasses import dataclass, field
from typing import Annotated

import typer

from receiver.base.options import (
    PANEL,
    AsJson,
    Depends,
    Output,
    Printing,
    printing,
)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The shared options as given before the command's name."""

    url: str | None = None
    api_key: str | None = None
    tenant: str | None = None
    profile: str | None = None
    printing: Printing = field(default_factory=Printing)


def print_options(
    context: typer.Context, as_json: AsJson = False, output: Output = None
) -> Printing:
    """Return for whom to print, for commands that need no running service."""
    before: Globals = context.obj or Globals()
    return printing(as_json, output, before.printing)


PrintingDep = Annotated[Printing, Depends(print_options)]
