"""`dispatcher audit`: who changed what, from where and why."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dispatcher.audit import ACTIONS
from dispatcher.cli.filters import PANEL, Listing, Since, Take, TakeDep, Until, given
from dispatcher.cli.service import ServiceDep
from dispatcher.client import AuditEntry, AuditFilters
from dispatcher.client.calls.tenant import audit_page
from receiver.base import cli
from receiver.base.cli import Failed
from receiver.base.options import command

app = typer.Typer()

Action = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What was done: key.create, …", rich_help_panel=PANEL),
]
Actor = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Who did it: a key's id, or service.", rich_help_panel=PANEL),
]
Target = Annotated[
    str | None,
    typer.Option(metavar="ID", help="What it was done to.", rich_help_panel=PANEL),
]
AllTenants = Annotated[
    bool,
    typer.Option(
        "--all-tenants",
        help="Of all tenants and of the platform itself, with a platform key.",
        rich_help_panel=PANEL,
    ),
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
    take: TakeDep,
    action: Action = None,
    actor: Actor = None,
    target: Target = None,
    since: Since = None,
    until: Until = None,
    all_tenants: AllTenants = False,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all that match to a new file, as NDJSON."),
    ] = None,
) -> None:
    """See who changed what, from where and why, newest first."""
    if action is not None and action not in ACTIONS:
        raise typer.BadParameter(f"--action {action!r} must be one of {', '.join(ACTIONS)}")
    fields = given(action=action, actor=actor, target=target, since=since, until=until)
    filters: AuditFilters = {"all_tenants": all_tenants}
    filters.update(fields)  # type: ignore[typeddict-item]  # the names above are its fields
    listing = Listing(
        page=lambda cursor, limit: audit_page(filters, cursor=cursor, limit=limit),
        table=_table,
        what="entries",
    )
    if export is not None:
        if take.is_limited:
            raise typer.BadParameter("--limit and --export exclude each other")
        _export((came for _, came in listing.rows(service, Take(None))), export)
    else:
        listing.print(service, take)


def _export(rows: Iterator[bytes], target: Path) -> None:
    """Write them all, or nothing: a part would pass for the whole. For its owner alone."""
    if target.exists():
        raise Failed(f"{target} exists already: name a new file")
    partial = target.with_name(target.name + ".partial")
    count = 0
    try:
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as out:
            for came in rows:
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


def _table(entries: Sequence[AuditEntry]) -> Table:
    made = cli.table("WHEN", "WHAT", fold="WHAT")
    for entry in entries:
        by = f"by {entry.actor}" + ("" if entry.address is None else f" from {entry.address}")
        reason = [cli.plain(entry.reason)] if entry.reason else []
        detail = _detail(entry)
        made.add_row(
            cli.stamp(entry.at),
            cli.lines(
                cli.plain(entry.action, "bold").append("  ").append_text(_target(entry)),
                cli.plain(by, "dim"),
                *([cli.plain(detail, "dim")] if detail else []),
                *reason,
            ),
        )
    return made


def _target(entry: AuditEntry) -> Text:
    owner = "the platform" if entry.tenant is None else entry.tenant
    return cli.plain(entry.target or "").append(f"  {cli.clean(owner)}", style="dim")


def _detail(entry: AuditEntry) -> str:
    return " ".join(
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in entry.detail.items()
    )
