"""`dispatcher secrets`: what signs the deliveries."""

from typing import Annotated, Final

import typer
from rich.text import Text

from dispatcher.cli import output, values
from dispatcher.cli.listings import print_list
from dispatcher.cli.options import examples, register, with_options
from dispatcher.cli.service import SERVICE, Service, connect
from dispatcher.client import RevealedSecret, Secret, calls

Destination = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A registered destination's own; otherwise the tenant's."),
]
_EXAMPLES: Final = (
    "dispatcher secrets                    [dim]# the first time: shows the tenant's secret[/dim]",
    "dispatcher secrets reveal",
    "dispatcher secrets rotate --overlap 7d",
)


def add(app: typer.Typer, panel: str) -> None:
    """Register the commands."""
    group = typer.Typer(invoke_without_command=True, epilog=examples(*_EXAMPLES))
    app.add_typer(group, name="secrets", rich_help_panel=panel)
    group.callback()(with_options(overview, service=connect))
    register(group, "list", show_all, ("dispatcher secrets list",), makers=SERVICE)
    register(group, "reveal", reveal, _EXAMPLES[1:2], makers=SERVICE)
    register(group, "rotate", rotate, _EXAMPLES[2:], makers=SERVICE)


def overview(context: typer.Context, service: Service) -> None:
    """Signing secrets: list, reveal, rotate

    Alone it lists them; the tenant's secret that nobody has seen yet is shown, this once.
    """
    if context.invoked_subcommand is not None:
        return
    unseen = None if service.json else _unseen(service)
    if unseen is None:
        show_all(service)
        _how(service)
        return
    _print(service.client.reveal_secret(id=unseen.id))
    output.error_console().print(
        "Shown this once, and recorded; see it again with: dispatcher secrets reveal", style="dim"
    )


def show_all(service: Service) -> None:
    """List the signing secrets, without their values."""
    made = output.table("SECRET", "SIGNS FOR", "STATE", "MADE", "REVEALED")

    def row(secret: Secret) -> None:
        seen = secret.revealed_at
        made.add_row(
            output.plain(secret.id),
            output.plain(secret.destination or "the tenant"),
            _state(secret),
            output.ago(secret.created_at),
            "never" if seen is None else output.ago(seen),
        )

    print_list(service, calls.secrets, Secret, made, row, "no secrets yet: they come with a tenant")


def reveal(
    service: Service,
    destination: Destination = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="This one, as `secrets list` shows.")
    ] = None,
) -> None:
    """Show a secret's value. That you looked is recorded."""
    if id is not None and destination is not None:
        raise typer.BadParameter("--id and --destination exclude each other")
    _print(service.show(calls.reveal_secret(id=id, destination=destination)))


def rotate(
    service: Service,
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
    overlap_s = None if overlap is None else values.duration_s(overlap)
    call = calls.rotate_secret(destination=destination, overlap_s=overlap_s, force=force)
    _print(service.show(call))


def _unseen(service: Service) -> Secret | None:
    """Return the tenant's own current secret, if nobody has ever seen it."""
    for secret in service.client.secrets():
        current = secret.active and secret.expires_at is None and secret.destination is None
        if current and secret.revealed_at is None:
            return secret
    return None


def _how(service: Service) -> None:
    if not service.json:
        output.error_console().print(
            "\nreveal: dispatcher secrets reveal   rotate: dispatcher secrets rotate", style="dim"
        )


def _print(secret: RevealedSecret | None) -> None:
    if secret is not None:
        output.console().print(output.plain(secret.secret, "bold"), soft_wrap=True)


def _state(secret: Secret) -> Text:
    if not secret.active:
        return Text("ended", style="dim")
    if secret.expires_at is not None:
        return Text(f"signs too, ends {output.ago(secret.expires_at)}", style="yellow")
    return Text("signs", style="green")
