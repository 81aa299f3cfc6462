"""`dispatcher secrets store`, `stored`, `forget`: secrets that headers name."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dispatcher.cli import options
from dispatcher.cli.access import secrets
from dispatcher.cli.service import ChangingDep, ServiceDep, print_list
from dispatcher.client import StoredSecret
from dispatcher.client.calls import secret as calls
from receiver.base import cli
from receiver.base.options import command

StoredName = Annotated[str, typer.Argument(metavar="NAME", help="What headers call it.")]
Platform = Annotated[
    bool,
    typer.Option("--platform", help="The platform's own, which no tenant can name."),
]

app = typer.Typer()  # its commands are among those of `secrets`


@command(secrets, "stored", "dispatcher secrets stored", "dispatcher secrets stored --json")
def list_stored_secrets(service: ServiceDep, platform: Platform = False) -> None:
    """List the secrets that are stored for headers, and which destinations name them; never the
    secrets themselves, which nobody can read again."""
    made = cli.table("NAME", "IN HEADERS OF", "STORED", "MADE")

    def row(stored: StoredSecret) -> None:
        made.columns[0].min_width = len(stored.name)
        more = stored.uses - len(stored.used_by)
        users = ", ".join(stored.used_by) + (f" and {more:,} more" if more else "")
        made.add_row(
            cli.plain(stored.name),
            cli.plain(users or "–"),
            cli.ago(stored.updated_at),
            cli.ago(stored.created_at),
        )

    build = partial(calls.stored_secrets, platform=platform)
    print_list(service, build, made, row, "no stored secrets")


@command(
    secrets,
    "store",
    "dispatcher secrets store crm-token                     [dim]# asks for it[/dim]",
    "dispatcher secrets store crm-token < token.txt",
    "dispatcher destinations set crm --header 'Authorization: Bearer secret:crm-token'",
)
def store_secret(
    service: ChangingDep,
    name: StoredName,
    file: Annotated[
        str | None, typer.Option(metavar="PATH", help="Read it from this file, not from stdin.")
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The secret itself: other users of this machine see it."),
    ] = None,
    platform: Platform = False,
) -> None:
    """Store a secret by name for destinations' headers, or replace it. It is asked for, or read
    from standard input (one line end is left out), and never shown again."""
    call = calls.store_secret(name, _given(value, file), platform=platform, reason=service.reason)
    stored = service.show(call)
    if stored is None:
        return
    cli.console().print(cli.plain(f"{stored.name} is stored"))
    if not stored.uses and not platform:
        hint = f"A destination's header names it: Authorization: Bearer secret:{name}"
        cli.error_console().print(cli.plain(hint, "dim"))


@command(
    secrets,
    "forget",
    "dispatcher secrets forget crm-token",
    "dispatcher secrets forget crm-token --force",
)
def forget_secret(
    service: ChangingDep,
    name: StoredName,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Although headers name it: nothing is sent there until it is stored again.",
        ),
    ] = False,
    platform: Platform = False,
) -> None:
    """Delete a stored secret. Refused while a destination's header names it."""
    service.client.forget_secret(name, force=force, platform=platform, reason=service.reason)
    if service.json:
        cli.print_json(b"{}")
    else:
        cli.console().print(cli.plain(f"{name} is deleted"))


def _given(value: str | None, file: str | None) -> str:
    """Return the secret that was given, without the line end of a file. Raises BadParameter."""
    if value is not None and file is not None:
        raise typer.BadParameter("--value and --file exclude each other")
    if value is not None:
        return value
    if file is None and sys.stdin.isatty():
        asked: str = typer.prompt("Secret", hide_input=True, confirmation_prompt=True, err=True)
        return asked
    read = sys.stdin.buffer.read() if file is None or file == "-" else options.read_file(Path(file))
    try:
        text = read.decode()
    except UnicodeDecodeError:
        raise typer.BadParameter("the secret is no text") from None
    return text.removesuffix("\n").removesuffix("\r")
