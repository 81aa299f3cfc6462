"""The command ``receiver``.

Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start.
"""

import typer

from receiver.cli import check, expect, inbox, serve, sign
from receiver.cli.common import EPILOG

app = typer.Typer(
    name="receiver",
    help="Verifies signed completions and handles each one once.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for commands in (serve.app, sign.app, expect.app, check.app):
    app.registered_commands += commands.registered_commands
app.add_typer(inbox.app, name="inbox")


def main() -> None:
    """The entry point of the command."""
    app()
