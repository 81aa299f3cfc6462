"""`dispatcher serve`, `migrate`, `backup`, `move`, `demo`: what needs no running service."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dispatcher.cli.shared import PrintingDep
from dispatcher.settings import Settings, load
from dispatcher.store.errors import CannotStart
from dispatcher.store.sealing import given_keys
from dispatcher.store.sqlite.database import path_of
from receiver.base import cli, log
from receiver.base.cli import Failed
from receiver.base.db.url import is_postgres
from receiver.base.options import Depends, command

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Where callbacks are kept; otherwise DISPATCHER_DATABASE_URL."
    ),
]


def load_settings(database_url: DatabaseUrl = None) -> Settings:
    """Return the settings, with the database that the option names."""
    settings = load()
    return settings if database_url is None else replace(settings, database_url=database_url)


SettingsDep = Annotated[Settings, Depends(load_settings)]
app = typer.Typer()


@command(
    app,
    "serve",
    "dispatcher serve",
    "dispatcher serve --port 0 --database-url sqlite:////var/lib/postback/postback.db",
    "dispatcher serve --workers 4 --database-url postgresql://postback@db.internal/postback",
    "DISPATCHER_ALLOW_NETWORKS=127.0.0.0/8 dispatcher serve   [dim]# deliver to this machine[/dim]",
)
def serve(
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where to listen.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, metavar="N", help="0 takes a free one.")
    ] = None,
    database_url: DatabaseUrl = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="Processes; more than 1 on PostgreSQL.")
    ] = 1,
) -> None:
    """Run the service until it is stopped. SIGTERM, SIGHUP or Ctrl-C: it finishes what is in
    flight; a second SIGTERM or Ctrl-C: it leaves at once. Options win over the environment's
    DISPATCHER_… settings, each of which may stand in a file that DISPATCHER_…_FILE names."""
    from dispatcher import server  # the other commands start faster without it
    from dispatcher.supervisor import serve_many

    settings = load_settings(database_url)
    if host is not None:
        settings = replace(settings, host=host)
    if port is not None:
        settings = replace(settings, port=port)
    try:
        if workers == 1:
            server.serve(settings, announce=_announce)
        else:
            serve_many(settings, workers, announce=_announce)
    except server.UncleanStop as error:
        # Through the log, which waits for no reader: what keeps this process is over.
        log.get("dispatcher").error("stopped, and not in order", reason=str(error))
        raise typer.Exit(cli.FAILED) from None


def _announce(url: str, new_key: str | None) -> None:
    out = cli.console()
    if not (sys.stdout.isatty() and sys.stderr.isatty()):  # there the log says so, and more
        out.print(f"listening on {url}", soft_wrap=True)
    if new_key is not None:
        out.print("\nA platform key was made, since the database had none. It is shown only now:")
        out.print(f"  export DISPATCHER_API_KEY={new_key}\n", soft_wrap=True)
    sys.stdout.flush()


@command(app, "migrate", "dispatcher migrate")
def migrate(settings: SettingsDep, printing: PrintingDep) -> None:
    """Bring the database up to date. `serve` does so by itself; this is for doing it apart, while
    no service runs."""
    asyncio.run(_migrate(settings))
    if printing.json:
        cli.print_json(b'{"migrated":true}')
    else:
        from dispatcher.store import redacted

        cli.console().print(f"{redacted(settings.database_url)} is up to date", soft_wrap=True)


async def _migrate(settings: Settings) -> None:
    from dispatcher.store import open_store

    store = open_store(settings)
    await store.open()
    await store.close()


@command(app, "backup", "dispatcher backup /backups/postback-$(date +%F).db")
def backup(
    settings: SettingsDep,
    printing: PrintingDep,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A file that is not there yet.")],
) -> None:
    """Copy the database to a new file, consistent and complete, also while the service runs. The
    keys are not in it: keep the key file beside the database, or DISPATCHER_ENCRYPTION_KEYS, in a
    place of its own."""
    from dispatcher import store

    asyncio.run(store.backup(settings, target))
    written, key_file = target.stat().st_size, store.key_file(settings)
    place = settings.outputs_storage
    if printing.json:
        named = {} if key_file is None else {"keyFile": str(key_file)}
        named["outputs"] = place
        cli.print_json(msgspec.json.encode({"bytes": written, **named}))
        return
    cli.console().print(f"{cli.clean(str(target))}: {cli.size(written)}")
    if place != "database":
        cli.error_console().print(
            f"Outputs of more than 64 KiB are not in it: they are at {cli.clean(place)}, which is "
            "to be copied after it.",
            style="dim",
        )
    if key_file is not None:
        cli.error_console().print(
            f"Its key is not in it: keep a copy of {cli.clean(str(key_file))} in another place. "
            f"A copy that is restored needs it as {cli.clean(target.name)}.key beside it.",
            style="dim",
        )


@command(
    app, "move", "dispatcher move sqlite:///postback.db postgresql://postback@db.internal/postback"
)
def move(
    printing: PrintingDep,
    source: Annotated[str, typer.Argument(metavar="SQLITE-URL", help="The file to move.")],
    target: Annotated[
        str, typer.Argument(metavar="POSTGRES-URL", help="An empty database to move it to.")
    ],
) -> None:
    """Move all data from a SQLite file to an empty PostgreSQL database: ids, states, attempts,
    schedules, keys and secrets as they are. Stop the service first. The file keeps all that it has;
    no service starts on it any more, and says where its data is. What is sealed stays so: the keys
    must be in DISPATCHER_ENCRYPTION_KEYS, here as for the service, also those of a key file.

    Interrupted, it goes on where it stopped when it is run again. At the end it compares both.
    """
    path = path_of(source)
    if not is_postgres(target):
        raise CannotStart("the target must be a URL such as postgresql://USER@HOST/DATABASE")
    try:
        from dispatcher.store.postgres import move as mover
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"PostgreSQL needs the package {error.name}: pip install '.[postgres]' in a checkout"
        ) from error

    kids = {kid for kid, _ in given_keys(load())}
    with _bar(printing.json) as bar:
        tasks = {table: bar.add_task(table, total=None) for table in mover.TABLES}

        def progress(table: str, there: int, total: int) -> None:
            bar.update(tasks[table], completed=there, total=total)

        try:
            moved = mover.move(path, target, progress, kids=kids)
        except KeyboardInterrupt:
            raise Failed("stopped", "run it again: it goes on from here") from None
    if moved.differing:
        raise Failed(
            f"the databases differ in: {', '.join(moved.differing)}",
            "keep using the file; move it to a new, empty database",
        )
    if printing.json:
        cli.print_json(msgspec.json.encode({"rows": moved.rows, "brought": moved.brought}))
        return
    console = cli.console()
    console.print(f"moved and compared: {moved.rows['callbacks']:,} callbacks, {_rest(moved.rows)}")
    console.print(
        "now set DISPATCHER_DATABASE_URL to it and start; keep the file until you are sure"
    )


def _rest(rows: dict[str, int]) -> str:
    return ", ".join(
        f"{rows[table]:,} {table}" for table in ("attempts", "destinations", "tenants")
    )


def _bar(as_json: bool) -> Progress:
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=cli.error_console(),
        transient=True,
        disable=as_json or not sys.stderr.isatty(),
    )


@command(app, "demo", "dispatcher demo")
def demo() -> None:
    """See it work, in less than a minute: real processes on free ports of this machine live
    through an outage, a slow customer, a kill -9, duplicates and a dead letter. Leaves nothing
    behind."""
    from dispatcher.demo.run import run  # the other commands start faster without it

    if run() != 0:
        raise Failed("the demo's numbers are wrong")
