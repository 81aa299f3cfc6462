"""All commands, and how one ends."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Final

import typer

from receiver.base.cli import EXIT_CODES, new_app, run_app
from receiver.base.helps import examples
from receiver.base.options import AsJson, Output, Profile, printing
from receiver.base.shells import completion
from receiver.cli import check, doctor, expect, inbox, serve, sign
from receiver.cli.common import AdminKey, Globals, Url

_START: Final = examples(
    "receiver serve --handler shop:receiver   [dim]# run it with your handler[/dim]",
    "receiver send body.json                  [dim]# send it a signed message[/dim]",
    "receiver inbox list                      [dim]# see what became of it[/dim]",
    "receiver check URL --secret whsec_…      [dim]# try any receiver, in any language[/dim]",
)

app = new_app()


@app.callback(invoke_without_command=True, epilog=f"{_START}\n\n{EXIT_CODES}")
def _root(
    context: typer.Context,
    url: Url = None,
    admin_key: AdminKey = None,
    profile: Profile = None,
    as_json: AsJson = False,
    output: Output = None,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Postback's receiver: verifies signed completions, and handles each one once."""
    context.obj = Globals(
        url=url, admin_key=admin_key, profile=profile, printing=printing(as_json, output)
    )
    if show_version:
        typer.echo(f"receiver {version('postback')}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for commands in (serve.app, sign.app, check.app, expect.app, doctor.app, completion("receiver")):
    app.registered_commands += commands.registered_commands
app.add_typer(inbox.app, name="inbox")


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 failed, 2 usage, 3 cannot start."""
    return run_app(app, "receiver", argv, one_line=True)
