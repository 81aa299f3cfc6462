"""`dispatcher audit`: who changed what, from where and why."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from dispatcher.audit import ACTIONS
from dispatcher.cli import options
from dispatcher.cli.options import command
from dispatcher.cli.service import Service, ServiceDep, pages
from dispatcher.client import AuditEntry, AuditFilters, Page
from dispatcher.client.calls.tenant import audit_page
from dispatcher.client.transport import Call
from receiver.base import cli
from receiver.base.cli import Failed

_PAGE_MAX: Final = 500  # what one request may ask for
_LIMIT: Final = 20
_PANEL: Final = "Which entries"
_Rows = Iterator[tuple[AuditEntry, bytes]]

app = typer.Typer()

Action = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What was done: key.create, …", rich_help_panel=_PANEL),
]
Actor = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Who did it: a key's id, or service.", rich_help_panel=_PANEL),
]
Target = Annotated[
    str | None,
    typer.Option(metavar="ID", help="What it was done to.", rich_help_panel=_PANEL),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        parser=options.moment,
        help="Done at this time or later: 30m, 2h, 7d (ago), or ISO-8601.",
        rich_help_panel=_PANEL,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        parser=options.moment,
        help="Done before this time.",
        rich_help_panel=_PANEL,
    ),
]
AllTenants = Annotated[
    bool,
    typer.Option(
        "--all-tenants",
        help="Of all tenants and of the platform itself, with a platform key.",
        rich_help_panel=_PANEL,
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help=f"How many. (default: {_LIMIT})")
]


@command(
    app,
    "audit",
    "dispatcher audit --since 24h",
    "dispatcher audit --action signing-secret.reveal --all",
    "dispatcher audit --target cb_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a",
    "dispatcher audit --all-tenants --since 30d --export audit.ndjson",
)
def audit(
    service: ServiceDep,
    action: Action = None,
    actor: Actor = None,
    target: Target = None,
    since: Since = None,
    until: Until = None,
    all_tenants: AllTenants = False,
    limit: Limit = None,
    all: Annotated[bool, typer.Option("--all", help="All of them, page by page.")] = False,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all that match to a new file, as NDJSON."),
    ] = None,
) -> None:
    """See who changed what, from where and why, newest first."""
    if (all or export is not None) and limit is not None:
        raise typer.BadParameter("--limit excludes --all and --export")
    if action is not None and action not in ACTIONS:
        raise typer.BadParameter(f"--action {action!r} must be one of {', '.join(ACTIONS)}")
    fields = {"action": action, "actor": actor, "target": target, "since": since, "until": until}
    given = {name: value for name, value in fields.items() if value is not None}
    filters: AuditFilters = {"all_tenants": all_tenants, **given}  # type: ignore[typeddict-item]  # the names above are its fields
    if export is not None:
        _export(_rows(service, filters, None), export)
        return
    rows_max = None if all else limit or _LIMIT
    rows = islice(_rows(service, filters, rows_max), rows_max)
    if service.json:
        cli.print_json_lines(came for _, came in rows)
    else:
        _print(rows, rows_max)


def _rows(service: Service, filters: AuditFilters, rows_max: int | None) -> _Rows:
    """Yield each entry with the JSON that it came as, page after page."""
    limit = _PAGE_MAX if rows_max is None else min(rows_max, _PAGE_MAX)

    def build(cursor: str | None) -> Call[Page[AuditEntry]]:
        return audit_page(filters, cursor=cursor, limit=limit)

    for page in pages(service, build):
        yield from page


def _export(rows: _Rows, target: Path) -> None:
    """Write them all, or nothing: a part would pass for the whole. For its owner alone."""
    if target.exists():
        raise Failed(f"{target} exists already: name a new file")
    partial = target.with_name(target.name + ".partial")
    count = 0
    try:
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as out:
            for _, came in rows:
                out.write(came + b"\n")
                count += 1
            out.flush()
            os.fsync(out.fileno())
        partial.rename(target)
    except OSError as error:
        raise Failed(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    cli.error_console().print(f"{count:,} entries in {cli.clean(str(target))}", style="dim")


def _print(rows: _Rows, rows_max: int | None) -> None:
    """Tables of a page each, so that a long list shows from its beginning."""
    shown = 0
    while found := list(islice(rows, _PAGE_MAX)):
        _print_table(entry for entry, _ in found)
        shown += len(found)
    if not shown:
        cli.error_console().print("no entries match", style="dim")
    elif shown == rows_max:
        note = f"the newest {rows_max}; --limit N or --all shows more"
        cli.error_console().print(note, style="dim")


def _print_table(entries: Iterable[AuditEntry]) -> None:
    made = cli.table("WHEN", "WHO", "WHAT", "ON WHAT")
    for entry in entries:
        where = "" if entry.address is None else f"from {entry.address}"
        made.add_row(
            cli.stamp(entry.at),
            _cell(cli.plain(entry.actor), where),
            _cell(cli.plain(entry.action, "bold"), entry.reason or ""),
            _cell(_target(entry), _detail(entry)),
        )
    cli.console().print(made)


def _cell(first: Text, below: str) -> Text:
    return cli.lines(first, cli.plain(below, "dim")) if below else first


def _target(entry: AuditEntry) -> Text:
    owner = "the platform" if entry.tenant is None else entry.tenant
    return cli.plain(entry.target or "").append(f"  {cli.clean(owner)}", style="dim")


def _detail(entry: AuditEntry) -> str:
    return " ".join(
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in entry.detail.items()
    )
