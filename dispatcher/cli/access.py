"""`dispatcher keys`, `secrets`: who may use the service, and what signs deliveries."""

from enum import StrEnum
from typing import Annotated, Final

import typer
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.options import command, with_dependencies
from dispatcher.cli.service import Service, ServiceDep, for_each, print_list
from dispatcher.client import Key, RevealedSecret, Secret, calls
from receiver.base import cli
from receiver.base.cli import examples


class Scope(StrEnum):
    """What a key may do."""

    SUBMIT = "submit"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


Destination = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A registered destination's own; otherwise the tenant's."),
]
_SECRETS: Final = (
    "dispatcher secrets                    [dim]# the first time: shows the tenant's secret[/dim]",
    "dispatcher secrets reveal",
    "dispatcher secrets rotate --overlap 7d",
)

app = typer.Typer()
keys = typer.Typer(no_args_is_help=True)
app.add_typer(keys, name="keys", help="API keys: list, create, revoke")
secrets = typer.Typer(invoke_without_command=True, epilog=examples(*_SECRETS))
app.add_typer(secrets, name="secrets")


@command(keys, "list", "dispatcher keys list")
def list_keys(service: ServiceDep) -> None:
    """List the API keys, without the keys themselves."""
    made = cli.table("KEY", "FOR", "SCOPES", "LABEL", "MADE")

    def row(key: Key) -> None:
        made.columns[0].min_width = len(key.id)  # `revoke` takes nothing less
        owner = cli.plain(key.tenant) if key.tenant else Text("platform", style="bold")
        made.add_row(
            cli.plain(key.id),
            owner,
            cli.plain(" ".join(key.scopes)),
            cli.plain(key.label),
            cli.ago(key.created_at),
        )

    nothing = "no keys (DISPATCHER_ADMIN_KEY of the service is not listed)"
    print_list(service, calls.keys, made, row, nothing)


@command(
    keys,
    "create",
    "dispatcher keys create --for acme --scope submit --scope read --label 'acme backend'",
    "dispatcher keys create --scope operate --scope read --label on-call   "
    "[dim]# a platform key[/dim]",
)
def create_key(
    service: ServiceDep,
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
    call = calls.create_key(list(dict.fromkeys(scope)), tenant=tenant_of, label=label)
    key = service.show(call)
    if key is None:
        return
    cli.console().print(cli.plain(key.key, "bold"))
    tenants = f"for {key.tenant}" if key.tenant else "for every tenant"
    note = f"{key.id}, {tenants}: {' '.join(key.scopes)}. Keep it now: it is not shown again."
    cli.error_console().print(cli.plain(note, "dim"))


@command(keys, "revoke", "dispatcher keys revoke key_0192…")
def revoke_keys(
    service: ServiceDep,
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids, as `keys list` shows.")],
) -> None:
    """Revoke API keys, at once."""
    for_each(service, ids, _revoke)


def _revoke(service: Service, id: str) -> None:
    service.client.revoke_key(id)
    if service.json:
        cli.print_json(b"{}")
    else:
        cli.console().print(f"{cli.clean(id)} is revoked")


@secrets.callback()
@with_dependencies
def overview(context: typer.Context, service: ServiceDep) -> None:
    """Signing secrets: list, reveal, rotate

    Alone it lists them; the tenant's secret that nobody has seen yet is shown, this once.
    """
    if context.invoked_subcommand is not None:
        return
    unseen = None if service.json else _unseen(service)
    if unseen is None:
        list_secrets(service)
        _note(service, "\nreveal: dispatcher secrets reveal   rotate: dispatcher secrets rotate")
        return
    _print(service.client.reveal_secret(id=unseen.id))
    _note(service, "Shown this once, and recorded; see it again with: dispatcher secrets reveal")


@command(secrets, "list", "dispatcher secrets list")
def list_secrets(service: ServiceDep) -> None:
    """List the signing secrets, without their options."""
    made = cli.table("SECRET", "SIGNS FOR", "STATE", "MADE", "REVEALED")

    def row(secret: Secret) -> None:
        seen = secret.revealed_at
        made.columns[0].min_width = len(secret.id)  # `--id` takes nothing less
        made.add_row(
            cli.plain(secret.id),
            cli.plain(secret.destination or "the tenant"),
            _state(secret),
            cli.ago(secret.created_at),
            "never" if seen is None else cli.ago(seen),
        )

    nothing = "no secrets yet: they come with a tenant"
    print_list(service, calls.secrets, made, row, nothing)


@command(secrets, "reveal", _SECRETS[1])
def reveal_secret(
    service: ServiceDep,
    destination: Destination = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="This one, as `secrets list` shows.")
    ] = None,
) -> None:
    """Show a secret's value. That you looked is recorded."""
    if id is not None and destination is not None:
        raise typer.BadParameter("--id and --destination exclude each other")
    _print(service.show(calls.reveal_secret(id=id, destination=destination)))


@command(secrets, "rotate", _SECRETS[2])
def rotate_secret(
    service: ServiceDep,
    destination: Destination = None,
    overlap: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long the old one signs too: 90m, 24h, 7d."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="End an earlier rotation's overlap at once.")
    ] = False,
) -> None:
    """Make a new secret. The old one signs beside it until the overlap ends (24 h), so that
    receivers can change over without losing one delivery."""
    overlap_s = None if overlap is None else options.duration_s(overlap)
    call = calls.rotate_secret(destination=destination, overlap_s=overlap_s, force=force)
    _print(service.show(call))
    _note(service, "Give it to the receivers: the old one signs too, until the overlap ends.")


def _unseen(service: Service) -> Secret | None:
    """Return the tenant's own current secret, if nobody has ever seen it."""
    for secret in service.client.secrets():
        current = secret.active and secret.expires_at is None and secret.destination is None
        if current and secret.revealed_at is None:
            return secret
    return None


def _note(service: Service, text: str) -> None:
    if not service.json:
        cli.error_console().print(text, style="dim")


def _print(secret: RevealedSecret | None) -> None:
    if secret is not None:
        cli.console().print(cli.plain(secret.secret, "bold"), soft_wrap=True)


def _state(secret: Secret) -> Text:
    if not secret.active:
        return Text("ended", style="dim")
    if secret.expires_at is not None:
        return Text(f"signs too, ends {cli.ago(secret.expires_at)}", style="yellow")
    return Text("signs", style="green")
