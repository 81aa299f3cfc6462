"""`dispatcher move`: from the SQLite file to PostgreSQL, once one machine is not enough."""

import sys
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dispatcher.cli.options import command
from dispatcher.cli.service import JsonDep
from dispatcher.store.errors import CannotStart
from dispatcher.store.sqlite.database import path_of
from receiver.base import cli
from receiver.base.cli import Failed
from receiver.base.db.url import is_postgres

app = typer.Typer()


@command(
    app, "move", "dispatcher move sqlite:///postback.db postgresql://postback@db.internal/postback"
)
def move(
    as_json: JsonDep,
    source: Annotated[str, typer.Argument(metavar="SQLITE-URL", help="The file to move.")],
    target: Annotated[
        str, typer.Argument(metavar="POSTGRES-URL", help="An empty database to move it to.")
    ],
) -> None:
    """Move all data from a SQLite file to an empty PostgreSQL database: ids, states, attempts,
    schedules, keys and secrets as they are. Stop the service first; the file is left as it is.

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

    with _bar(as_json) as bar:
        tasks = {table: bar.add_task(table, total=None) for table in mover.TABLES}

        def progress(table: str, there: int, total: int) -> None:
            bar.update(tasks[table], completed=there, total=total)

        moved = mover.move(path, target, progress)
    if moved.differing:
        raise Failed(
            f"the databases differ in: {', '.join(moved.differing)}",
            "keep using the file; move it to a new, empty database",
        )
    if as_json:
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
