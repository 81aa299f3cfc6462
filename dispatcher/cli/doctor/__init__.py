"""`dispatcher doctor`: is everything as it should be, and if not, what to do."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from dispatcher.cli.doctor import checks
from dispatcher.cli.doctor.checks import Check
from dispatcher.cli.doctor.database import check_database
from dispatcher.cli.options import Depends, command
from dispatcher.cli.serve import SettingsDep
from dispatcher.cli.shared import JsonDep, Url
from dispatcher.settings import ClientSettings, Settings, load_client, strays
from receiver.base import cli
from receiver.base.db.url import is_postgres
from receiver.base.lack import files_limit

_MARKS: Final = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "bad": ("✗", "bold red")}


app = typer.Typer()


def _where(url: Url = None) -> ClientSettings:
    found = load_client()
    return found if url is None else replace(found, url=url)


@command(
    app,
    "doctor",
    "dispatcher doctor",
    "dispatcher doctor --json | jq 'select(.state != \"ok\")'",
)
def doctor(
    settings: SettingsDep,
    service: Annotated[ClientSettings, Depends(_where)],
    as_json: JsonDep,
) -> None:
    """Check the database, secrets, egress rules, clock, limits and the running service, and say
    what to do. Exits with 1 if anything is wrong; it changes nothing."""
    found = run_all(settings, service)
    if as_json:
        cli.print_json_lines(msgspec.json.encode(check) for check in found)
    else:
        _print(found)
    if any(check.state == "bad" for check in found):
        raise typer.Exit(1)


def run_all(settings: Settings, service: ClientSettings) -> list[Check]:
    """Return every check, in the order in which one would repair things. Changes nothing."""
    database = list(check_database(settings))
    has_endpoints = any(check.name == "endpoints" for check in database)
    return [
        *database,
        *([] if is_postgres(settings.database_url) else [checks.disk(settings)]),
        checks.files(settings, files_limit(hard=True)),
        *checks.variables(strays()),
        checks.clock(time.time()),
        checks.signing_secret(settings),
        checks.admin_key(settings),
        checks.egress(settings),
        *checks.endpoints(settings),
        checks.links(settings, has_endpoints=has_endpoints),
        *checks.authorities(settings),
        *checks.running(service),
    ]


def _print(found: Sequence[Check]) -> None:
    grid = Table.grid(padding=(0, 1))
    for check in found:
        mark, style = _MARKS[check.state]
        grid.add_row(Text(mark, style=style), Text(check.name), cli.plain(check.message))
        if check.advice:
            grid.add_row("", "", cli.plain(f"→ {check.advice}", "dim"))
    cli.console().print(grid)
