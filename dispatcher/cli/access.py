"""`dispatcher keys`, `secrets`: who may use the service, and what signs deliveries."""

import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

import typer
from rich.text import Text

from dispatcher.access import DEFAULT_TENANT
from dispatcher.cli.service import ChangingDep, Service, ServiceDep, for_each, print_list
from dispatcher.client import (
    Conflict,
    Key,
    NewKey,
    PostbackError,
    Reencryption,
    RevealedSecret,
    Secret,
)
from dispatcher.client.calls import key as key_calls
from dispatcher.client.calls import secret as secret_calls
from dispatcher.client.calls.tenant import service_info
from dispatcher.client.retry import poll_s
from dispatcher.settings import variable
from receiver.base import cli
from receiver.base.cli import Failed
from receiver.base.helps import examples
from receiver.base.options import ahead, command, duration_s, with_dependencies


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
Expires = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="When it ends: 12h, 90d, or 2027-01-31T12:00:00Z."),
]
_SOON: Final = timedelta(days=7)  # as long before as the service warns
_SECRETS: Final = (
    "dispatcher secrets                    [dim]# the first time: shows the tenant's secret[/dim]",
    "dispatcher secrets reveal",
    "dispatcher secrets rotate --overlap 7d",
    "dispatcher secrets reencrypt",
)

app = typer.Typer()
keys = typer.Typer(no_args_is_help=True)
app.add_typer(keys, name="keys", help="API keys: list, create, rotate, revoke")
secrets = typer.Typer(invoke_without_command=True, epilog=examples(*_SECRETS))
app.add_typer(secrets, name="secrets")


@command(keys, "list", "dispatcher keys list")
def list_keys(service: ServiceDep) -> None:
    """List the API keys, without the keys themselves."""
    made = cli.table("KEY", fold="KEY")

    def row(key: Key) -> None:
        owner = cli.plain(f"for {key.tenant}") if key.tenant else Text("platform", style="bold")
        used = "never used" if key.last_used_at is None else f"used {cli.ago(key.last_used_at)}"
        parts = [
            owner,
            cli.plain(" ".join(key.scopes)),
            cli.plain(f"made {cli.ago(key.created_at)}", "dim"),
            cli.plain(used, "dim"),
            Text("ends ").append_text(_end(key.expires_at)),
            _bounds(key),
        ]
        label = cli.plain(f"  {key.label}" if key.label else "", "bold")
        about = Text("  ").append_text(Text(" · ").join(part for part in parts if part))
        made.add_row(cli.lines(cli.plain(key.id).append_text(label), about))

    print_list(service, key_calls.keys, made, row, "no keys are stored")
    if not service.json and _is_set(service, "admin_key"):
        _note(
            service, f"and {variable('admin_key')}, with which the service was started: all scopes"
        )


def _is_set(service: Service, name: str) -> bool:
    """Whether the service was started with a setting that is a secret, as far as this key may
    know."""
    try:
        return variable(name) in service.client.call(service_info()).secrets
    except PostbackError:
        return False


def _end(at: datetime | None) -> Text:
    """Return when a key ends, which is to be seen from a week before on."""
    if at is None:
        return Text("never", style="dim")
    left = at - datetime.now(UTC)
    if left <= timedelta(0):
        return Text("expired", style="bold red")
    return Text(cli.ago(at), style="yellow" if left <= _SOON else "")


def _bounds(key: Key) -> Text:
    """Return what a key is bound to, in words; and that the text before is good, while it is."""
    parts = [*key.networks, *(f"to {one}" for one in key.destinations)]
    if key.rate_per_second is not None:
        parts.append(f"{key.rate_per_second:g}/s")
    bounds = cli.plain(", ".join(parts))
    ends = key.previous_expires_at
    if ends is not None and ends > datetime.now(UTC):
        used = key.previous_used_at
        seen = "unused" if used is None else f"used {cli.ago(used)}"
        note = f"old text good, ends {cli.ago(ends)}, {seen}"
        bounds.append(f"{'; ' if parts else ''}{note}", style="yellow")
    return bounds


@command(
    keys,
    "create",
    "dispatcher keys create --for acme --scope submit --scope read --label 'acme backend'",
    "dispatcher keys create --scope submit --destination billing --network 203.0.113.0/24 "
    "--expires 90d --rate 50",
    "dispatcher keys create --scope operate --scope read --label on-call   "
    "[dim]# a platform key[/dim]",
)
def create_key(
    service: ChangingDep,
    scope: Annotated[
        list[Scope], typer.Option(help="What it may do (repeatable).", show_default=False)
    ],
    tenant_of: Annotated[
        str | None,
        typer.Option("--for", metavar="TENANT", help="Whose key; otherwise a platform key."),
    ] = None,
    label: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    expires: Expires = None,
    network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Where it may be used from (repeatable)."),
    ] = None,
    destination: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Where it may submit to: a name or a server (repeatable)."
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="PER_SECOND", help="Most requests a second.")
    ] = None,
) -> None:
    """Make an API key. It is shown once, here, and never again. What it is not bound to by options
    it is bound to as the key that makes it."""
    call = key_calls.create_key(
        list(dict.fromkeys(scope)),
        tenant=tenant_of,
        label=label,
        expires=None if expires is None else ahead(expires),
        networks=network or (),
        destinations=destination or (),
        rate_per_second=rate,
        reason=service.reason,
    )
    key = service.show(call)
    if key is not None:
        _show(key)


@command(
    keys,
    "rotate",
    "dispatcher keys rotate key_0192…",
    "dispatcher keys rotate key_0192… --overlap 7d --expires 90d",
)
def rotate_key(
    service: ChangingDep,
    id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")],
    overlap: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long the old text is good too: 90m, 24h, 7d."),
    ] = None,
    expires: Expires = None,
    force: Annotated[
        bool, typer.Option("--force", help="End an earlier rotation's overlap at once.")
    ] = False,
) -> None:
    """Give an API key a new text, shown once, here. The key stays what it is, and the old text is
    good until the overlap ends (24 h), so that who uses it can change over."""
    call = key_calls.rotate_key(
        id,
        overlap_s=None if overlap is None else duration_s(overlap),
        force=force,
        expires=None if expires is None else ahead(expires),
        reason=service.reason,
    )
    key = service.show(call)
    if key is None:
        return
    _show(key)
    if key.previous_expires_at is not None:
        until = cli.ago(key.previous_expires_at)
        _note(service, f"The old text ends {until}; `keys list` shows whether it is still used.")


def _show(key: NewKey) -> None:
    cli.console().print(cli.plain(key.key, "bold"))
    tenants = f"for {key.tenant}" if key.tenant else "for every tenant"
    note = f"{key.id}, {tenants}: {' '.join(key.scopes)}. Keep it now: it is not shown again."
    cli.error_console().print(cli.plain(note, "dim"))


@command(keys, "revoke", "dispatcher keys revoke key_0192…")
def revoke_keys(
    service: ChangingDep,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids, as `keys list` shows.")],
) -> None:
    """Revoke API keys, at once."""
    for_each(service, ids, _revoke)


def _revoke(service: Service, id: str) -> None:
    service.client.revoke_key(id, reason=service.reason)
    if service.json:
        cli.print_json(b"{}")
    else:
        cli.console().print(f"{cli.clean(id)} is revoked")


@secrets.callback()
@with_dependencies
def overview(context: typer.Context, service: ChangingDep) -> None:
    """Signing secrets: list, reveal, rotate; and secrets stored for headers: store, stored, forget

    Alone it lists those that sign; where the service made the tenant's, and nobody has seen it yet,
    it shows that, this once.
    """
    if context.invoked_subcommand is not None:
        return
    given = service.tenant in (None, DEFAULT_TENANT) and _is_set(service, "signing_secret")
    unseen = None if service.json or given else _unseen(service)
    if unseen is None:
        list_secrets(service)
        _note(service, "\nreveal: dispatcher secrets reveal   rotate: dispatcher secrets rotate")
        return
    _print(service.client.reveal_secret(id=unseen.id, reason=service.reason))
    _note(service, "Shown this once, and recorded; see it again with: dispatcher secrets reveal")


@command(secrets, "list", "dispatcher secrets list")
def list_secrets(service: ServiceDep) -> None:
    """List the signing secrets, without their values."""
    made = cli.table("SECRET", fold="SECRET")
    names = _Names(service)

    def row(secret: Secret) -> None:
        seen = secret.revealed_at
        parts = [
            cli.plain(names.of(secret.destination), "bold"),
            _state(secret),
            cli.plain(f"made {cli.ago(secret.created_at)}", "dim"),
            cli.plain("never revealed" if seen is None else f"revealed {cli.ago(seen)}", "dim"),
        ]
        about = Text("  ").append_text(Text(" · ").join(parts))
        made.add_row(cli.lines(cli.plain(secret.id), about))

    nothing = "no secrets yet: they come with a tenant"
    print_list(service, secret_calls.secrets, made, row, nothing)


class _Names:
    """What destinations are called, looked up once there is one to name."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._names: dict[str, str] | None = None

    def of(self, destination: str | None) -> str:
        """Return whose secret it is."""
        if destination is None:
            return "the tenant"
        if self._names is None:
            try:
                found = self._service.client.destinations()
                self._names = {one.id: one.name or one.url for one in found}
            except PostbackError:  # a key that may not read them
                self._names = {}
        return self._names.get(destination, destination)


@command(secrets, "reveal", _SECRETS[1])
def reveal_secret(
    service: ChangingDep,
    destination: Destination = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="This one, as `secrets list` shows.")
    ] = None,
) -> None:
    """Show a secret's value. That you looked is recorded."""
    if id is not None and destination is not None:
        raise typer.BadParameter("--id and --destination exclude each other")
    _print(
        service.show(
            secret_calls.reveal_secret(id=id, destination=destination, reason=service.reason)
        )
    )


@command(secrets, "rotate", _SECRETS[2])
def rotate_secret(
    service: ChangingDep,
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
    overlap_s = None if overlap is None else duration_s(overlap)
    call = secret_calls.rotate_secret(
        destination=destination, overlap_s=overlap_s, force=force, reason=service.reason
    )
    try:
        made = service.show(call)
    except Conflict as error:
        again = "wait for its end, or end it at once: dispatcher secrets rotate --force"
        raise Failed(error.message, again) from None
    _print(made)
    if made is not None:
        whose = destination or "the tenant"
        _note(
            service,
            f"The new secret of {cli.clean(whose)}, {made.id}. Give it to the receivers now: the "
            "old one signs\nbeside it until the overlap ends; `dispatcher secrets list` says when.",
        )


@command(secrets, "reencrypt", _SECRETS[3], "dispatcher secrets reencrypt --no-wait --json")
def reencrypt(
    service: ChangingDep,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until it is done; otherwise begin it only.")
    ] = True,
) -> None:
    """Seal everything that is stored with the newest key: what is plain, and what older keys
    sealed. The service does it while it works, and goes on after a restart. For platform keys.

    To change the key: put the new one in front in DISPATCHER_ENCRYPTION_KEYS and restart; run this;
    then take the old one out. Where several processes share a database, first add the new key
    behind the old one everywhere.
    """
    call, polls = secret_calls.reencrypt(reason=service.reason), 0
    while True:
        response = service.client.raw(call)
        done = call.read(response)
        if done.final or not wait:
            break
        time.sleep(poll_s(polls))
        call, polls = secret_calls.reencryption(), polls + 1
    if service.json:
        cli.print_json(response.body)
    else:
        _print_reencryption(done)
    if done.unopened:
        raise Failed(
            f"{done.unopened:,} values could not be opened",
            "put the keys that `dispatcher doctor` names into DISPATCHER_ENCRYPTION_KEYS, restart, "
            "and run this again",
        )


def _print_reencryption(found: Reencryption) -> None:
    console = cli.console()
    if not found.final:
        console.print(f"begun, with the key {cli.clean(found.key or '')}: it goes on by itself")
        return
    console.print(
        f"{found.sealed:,} values sealed with the key {cli.clean(found.key or '')}, "
        f"{found.looked:,} rows looked at"
    )
    if not found.clean:
        cli.error_console().print(
            "What they were may still stand in unused parts of the database's files: on SQLite "
            "stop the service and go on with a copy made by `dispatcher backup`; on PostgreSQL run "
            "VACUUM FULL secrets, stored_secrets, endpoint_secrets, endpoints, destinations, "
            "payloads.",
            style="dim",
        )


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
