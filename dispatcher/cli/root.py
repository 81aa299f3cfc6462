"""The command line: what there is, and how a command ends."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Final

import typer

from dispatcher import VERSION
from dispatcher.cli.shared import ApiKey, Globals, Tenant, Url
from dispatcher.settings import strays
from dispatcher.store.errors import CannotStart, StoreError
from receiver.base import cli
from receiver.base.cli import Failed
from receiver.base.helps import examples
from receiver.base.options import AsJson, Output, Profile, printing
from receiver.base.settings import SettingError
from receiver.base.shells import completion

_START: Final = examples(
    "dispatcher serve                        [dim]# run it[/dim]",
    "dispatcher list --status dead           [dim]# find what failed[/dim]",
    "dispatcher show cb_…                    [dim]# understand it[/dim]",
    "dispatcher failures                     [dim]# what fails where, and why[/dim]",
    "dispatcher replay --status dead --dry-run",
)
# The modules of commands.
_PANELS: Final[Mapping[str, tuple[str, ...]]] = {
    "Run the service": ("serve", "doctor"),
    "Callbacks": ("send", "listing", "show", "replay"),
    "Jobs": ("endpoints", "jobs"),
    "Setting up": ("destinations", "access", "stored", "tenants", "audit"),
}
ALONE: Final = frozenset({"serve", "migrate", "backup", "move", "demo"})
"""The commands of `serve`'s module, which needs no client."""


def _root(
    context: typer.Context,
    url: Url = None,
    api_key: ApiKey = None,
    tenant: Tenant = None,
    profile: Profile = None,
    as_json: AsJson = False,
    output: Output = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Postback's dispatcher: carries job completions to customers; durable, signed, retried,
    replayable."""
    context.obj = Globals(
        url=url,
        api_key=api_key,
        tenant=tenant,
        profile=profile,
        printing=printing(as_json, output),
    )
    if version:
        typer.echo(f"dispatcher {VERSION}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def build(word: str | None = None) -> typer.Typer:
    """Return every command, in its panel; for a `word` of ALONE those alone, which start a third
    sooner without all that the others need."""
    app = cli.new_app()
    app.callback(invoke_without_command=True, epilog=f"{_START}\n\n{cli.EXIT_CODES}")(_root)
    for panel, names in _PANELS.items():
        for name in names:
            if word in ALONE and name != "serve":
                continue
            module = import_module(f"dispatcher.cli.{name}")
            for info in (*module.app.registered_commands, *module.app.registered_groups):
                info.rich_help_panel = panel
            app.add_typer(module.app)
    app.add_typer(completion("dispatcher"))
    return app


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 1 failed, 2 usage, 3 cannot start."""
    words = sys.argv[1:] if argv is None else list(argv)
    app = build(words[0] if words else None)
    return cli.run_app(app, "dispatcher", words, explain=_explain)


def _explain(error: Exception) -> Failed | None:
    if isinstance(error, CannotStart | SettingError):
        return Failed(str(error), strays().hint(str(error)), code=cli.CANNOT_START)
    if isinstance(error, StoreError):
        return Failed(str(error))
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        return Failed("what was typed is not text in UTF-8", code=cli.USAGE)
    from dispatcher.cli.service import explain  # what needs no client starts sooner without it
    from dispatcher.client import PostbackError

    return explain(error) if isinstance(error, PostbackError) else None
