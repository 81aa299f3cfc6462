"""`dispatcher keys`: who may use the service."""

from enum import StrEnum
from typing import Annotated, Final

import typer
from rich.text import Text

from dispatcher.cli import output
from dispatcher.cli.each import each
from dispatcher.cli.listings import print_list
from dispatcher.cli.options import register
from dispatcher.cli.service import SERVICE, Service
from dispatcher.client import Key, calls


class Scope(StrEnum):
    """What a key may do."""

    SUBMIT = "submit"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


_CREATE: Final = (
    "dispatcher keys create --for acme --scope submit --scope read --label 'acme backend'",
    "dispatcher keys create --scope operate --scope read --label on-call   "
    "[dim]# a platform key[/dim]",
)


def add(app: typer.Typer, panel: str) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True)
    about = "API keys: list, create, revoke"
    app.add_typer(group, name="keys", help=about, rich_help_panel=panel)
    register(group, "list", show_all, ("dispatcher keys list",), makers=SERVICE)
    register(group, "create", create, _CREATE, makers=SERVICE)
    register(group, "revoke", revoke, ("dispatcher keys revoke key_0192…",), makers=SERVICE)


def show_all(service: Service) -> None:
    """List the API keys, without the keys themselves."""
    made = output.table("KEY", "FOR", "SCOPES", "LABEL", "MADE")

    def row(key: Key) -> None:
        owner = output.plain(key.tenant) if key.tenant else Text("platform", style="bold")
        made.add_row(
            output.plain(key.id),
            owner,
            output.plain(" ".join(key.scopes)),
            output.plain(key.label),
            output.ago(key.created_at),
        )

    print_list(service, calls.keys, Key, made, row, "no keys")


def create(
    service: Service,
    scope: Annotated[
        list[Scope], typer.Option(help="What it may do (repeatable).", show_default=False)
    ],
    tenant_of: Annotated[
        str | None,
        typer.Option("--for", metavar="TENANT", help="Whose key; otherwise a platform key."),
    ] = None,
    label: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
) -> None:
    """Make an API key. It is shown once, here, and never again."""
    key = service.show(calls.create_key(list(dict.fromkeys(scope)), tenant=tenant_of, label=label))
    if key is None:
        return
    out = output.console()
    out.print(output.plain(key.key, "bold"))
    whose = f"for {key.tenant}" if key.tenant else "for every tenant"
    note = f"{key.id}, {whose}: {' '.join(key.scopes)}. Keep it now: it is not shown again."
    output.error_console().print(output.plain(note, "dim"))


def revoke(
    service: Service,
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids, as `keys list` shows.")],
) -> None:
    """Make keys worthless, at once."""
    each(service, ids, _revoke)


def _revoke(service: Service, id: str) -> None:
    service.client.revoke_key(id)
    if service.json:
        output.print_json(b"{}")
    else:
        output.console().print(f"{output.clean(id)} is revoked")
