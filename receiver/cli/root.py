"""All commands, and how one ends."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Final, cast

import typer

from receiver.base.cli import say
from receiver.cli import check, inbox, serve, sign
from receiver.cli.common import EPILOG, FAILED, USAGE

# Typer carries a click of its own, and shows of its errors only this leaf; ClickException is the
# root of all that it raises about what was typed.
_UsageError: Final = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])

_START: Final = f"""Start:

receiver serve --handler shop:receiver   [dim]# run it with your handler[/dim]

receiver sign body.json --form curl      [dim]# send it a signed message[/dim]

receiver inbox list                      [dim]# see what became of it[/dim]

receiver check URL --secret whsec_…      [dim]# try any receiver, in any language[/dim]

{EPILOG}"""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True, epilog=_START)
def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Postback's receiver: verifies signed completions, and handles each one once."""
    if show_version:
        typer.echo(f"receiver {version('postback')}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for commands in (serve.app, sign.app, check.app, inbox.expect_app):
    app.registered_commands += commands.registered_commands
app.add_typer(inbox.app, name="inbox")


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 failed, 2 usage, 3 cannot start."""
    try:
        code = app(
            list(sys.argv[1:] if argv is None else argv),
            prog_name="receiver",
            standalone_mode=False,
        )
    except _UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "receiver"
        say(error.format_message(), f"see: {where} --help")
        return USAGE
    except typer.Abort:
        say("stopped")
        return FAILED
    return code if isinstance(code, int) else 0
