"""`dispatcher list`: find callbacks."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from dispatcher.cli import filters, output
from dispatcher.cli.options import Makers, register
from dispatcher.cli.service import Service, connect
from dispatcher.client import Callback, Filters
from dispatcher.client.calls import page

_PAGE: Final = 500  # the most that one request may ask for
_LIMIT: Final = 20
_EXAMPLES: Final = (
    "dispatcher list --status dead --since 24h",
    "dispatcher list --tag team=a --error http_503 --limit 100",
    "dispatcher list --job-id job_1234567890abcdef",
    "dispatcher list --status dead --all --json | jq -r .id",
)


class _RawPage(msgspec.Struct, rename="camel"):
    data: list[msgspec.Raw]
    next_cursor: str | None


def add(app: typer.Typer, panel: str) -> None:
    """Register the command."""
    makers: Makers = {"service": connect, "wanted": filters.chosen}
    register(app, "list", find, _EXAMPLES, panel=panel, makers=makers)


def find(
    service: Service,
    wanted: Filters,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help=f"How many. (default: {_LIMIT})")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All of them, page by page.")] = False,
) -> None:
    """Find callbacks by what happened to them, newest first."""
    if all and limit is not None:
        raise typer.BadParameter("--all and --limit exclude each other")
    most = None if all else limit or _LIMIT
    rows = islice(_rows(service, wanted, most), most)
    if service.json:
        output.print_json_lines(bytes(row) for row in rows)
        return
    _print(rows, most)


def _rows(service: Service, wanted: Filters, most: int | None) -> Iterator[msgspec.Raw]:
    """Each callback's JSON as it came, page after page."""
    cursor, left = None, most
    while True:
        ask = _PAGE if left is None else min(left, _PAGE)
        answer = service.client.raw(page(wanted, cursor=cursor, limit=ask))
        found = msgspec.json.decode(answer.body, type=_RawPage)
        yield from found.data
        cursor = found.next_cursor
        left = None if left is None else left - len(found.data)
        if cursor is None or left == 0:
            return


def _print(rows: Iterator[msgspec.Raw], most: int | None) -> None:
    """Tables of a page each, so that a long list shows from its beginning."""
    shown = 0
    while found := list(islice(rows, _PAGE)):
        callbacks = [msgspec.json.decode(row, type=Callback) for row in found]
        output.console().print(callback_table(callbacks))
        shown += len(found)
    if not shown:
        output.error_console().print("no callbacks match", style="dim")
    elif shown == most:
        note = f"the newest {most}; --limit N or --all shows more"
        output.error_console().print(note, style="dim")


def callback_table(callbacks: Sequence[Callback]) -> Table:
    """Callbacks for people: one line each where there is room, else two."""
    wide = output.console().width >= output.WIDE
    return _wide(callbacks) if wide else _narrow(callbacks)


def _wide(callbacks: Sequence[Callback]) -> Table:
    made = output.table("STATUS", "ID", "JOB", "DESTINATION", "TRIES", "AGE", "NOTE")
    made.columns[1].min_width = len(callbacks[0].id) if callbacks else None
    for callback in callbacks:
        made.add_row(
            output.word(callback.status),
            output.plain(callback.id),
            _job(callback),
            output.plain(_where(callback)),
            output.plain(callback.attempts),
            output.plain(output.ago(callback.created_at)),
            _note(callback),
        )
    return made


def _narrow(callbacks: Sequence[Callback]) -> Table:
    made = output.table("STATUS", "CALLBACK", "DESTINATION")
    made.columns[1].min_width = len(callbacks[0].id) if callbacks else None
    for callback in callbacks:
        made.add_row(
            output.lines(
                output.word(callback.status),
                output.plain(f"  {output.ago(callback.created_at)}", "dim"),
            ),
            output.lines(output.plain(callback.id), _job(callback)),
            output.lines(output.plain(_where(callback)), _note(callback)),
        )
    return made


def _job(callback: Callback) -> Text:
    job = output.plain(callback.job_id, "bold")
    if callback.job_status is not None:
        job.append_text(output.plain(f" {callback.job_status}", "dim"))
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
        due = output.plain(f"next {output.ago(callback.next_attempt_at)}", "dim")
        if callback.last_error is None:
            return due
        return output.plain(callback.last_error, "yellow").append(" · ").append_text(due)
    if callback.last_error is not None and callback.status != "delivered":
        tries = f" · {callback.attempts} attempt{'s' if callback.attempts != 1 else ''}"
        return output.plain(callback.last_error, "red").append(tries, style="dim")
    if callback.delivered_at is not None:
        took = (callback.delivered_at - callback.created_at).total_seconds()
        return output.plain(f"after {output.span(took)}", "dim")
    return Text()
