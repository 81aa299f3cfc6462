"""`dispatcher doctor`: is everything as it should be, and if not, what to do."""

import time
from dataclasses import replace
from typing import Annotated

import typer

from dispatcher.cli.doctor import asking, checks
from dispatcher.cli.doctor.database import check_database
from dispatcher.cli.doctor.outputs import outputs
from dispatcher.cli.serve import SettingsDep
from dispatcher.cli.shared import ApiKey, Globals, PrintingDep, Url
from dispatcher.settings import ClientSettings, Settings, load_client, strays
from receiver.base import checkup
from receiver.base.checkup import Check
from receiver.base.db.url import is_postgres
from receiver.base.lack import files_limit
from receiver.base.options import Depends, Profile, command

app = typer.Typer()


def _where(
    context: typer.Context, url: Url = None, api_key: ApiKey = None, profile: Profile = None
) -> ClientSettings:
    before: Globals = context.obj or Globals()
    found = load_client(profile=profile or before.profile)
    where, key = url or before.url or found.url, api_key or before.api_key or found.api_key
    return replace(found, url=where.rstrip("/"), api_key=key)


@command(
    app,
    "doctor",
    "dispatcher doctor",
    "dispatcher doctor --json | jq 'select(.state != \"ok\")'",
)
def doctor(
    settings: SettingsDep,
    service: Annotated[ClientSettings, Depends(_where)],
    printing: PrintingDep,
) -> None:
    """Check the database, secrets, egress rules, clock, limits and the running service, and say
    what to do. With a platform key that may `admin`, the service itself is asked how it was
    started; otherwise what this shell has set is told. Exits with 1 if anything is wrong; it
    changes nothing."""
    checkup.report(run_all(settings, service), printing)


def run_all(settings: Settings, service: ClientSettings) -> list[Check]:
    """Return every check, in the order in which one would repair things. Changes nothing."""
    database = list(check_database(settings))
    has_endpoints = any(check.name == "endpoints" for check in database)
    started = asking.started(service)
    running = settings if started is None else started.over(settings)
    return [
        *database,
        *([] if is_postgres(settings.database_url) else [checks.disk(settings)]),
        outputs(running),
        checks.files(settings, files_limit(hard=True)),
        *checkup.variables(strays()),
        checks.clock(time.time()),
        *([] if started is None else asking.compared(settings, started)),
        checks.signing_secret(settings, started),
        checks.admin_key(settings, started),
        checks.egress(running, started),
        *checks.endpoints(settings),
        checks.links(running, has_endpoints=has_endpoints, started=started),
        *checks.authorities(settings),
        *checks.running(service),
    ]
