"""The command line: what there is, and how a command ends."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from dispatcher import VERSION
from dispatcher.cli import (
    access,
    audit,
    destinations,
    doctor,
    endpoints,
    jobs,
    listing,
    replay,
    send,
    serve,
    show,
    stored,
    tenants,
)
from dispatcher.cli.service import ApiKey, AsJson, Globals, Tenant, Url, explain
from dispatcher.client import PostbackError
from dispatcher.settings import strays
from dispatcher.store.errors import CannotStart, StoreError
from receiver.base import cli
from receiver.base.cli import Failed, examples
from receiver.base.settings import SettingError

_START: Final = examples(
    "dispatcher serve                        [dim]# run it[/dim]",
    "dispatcher list --status dead           [dim]# find what failed[/dim]",
    "dispatcher show cb_…                    [dim]# understand it[/dim]",
    "dispatcher replay --status dead --dry-run",
)
_PANELS: Final[dict[str, tuple[Any, ...]]] = {
    "Run the service": (serve, doctor),
    "Callbacks": (send, listing, show, replay),
    "Jobs": (endpoints, jobs),
    "Setting up": (destinations, access, stored, tenants, audit),
}


def _root(
    context: typer.Context,
    url: Url = None,
    api_key: ApiKey = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Postback's dispatcher: carries job completions to customers; durable, signed, retried,
    replayable."""
    context.obj = Globals(url=url, api_key=api_key, tenant=tenant, json=as_json)
    if version:
        typer.echo(f"dispatcher {VERSION}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def build() -> typer.Typer:
    """Every command, in its panel."""
    app = cli.new_app()
    app.callback(invoke_without_command=True, epilog=_START)(_root)
    for panel, modules in _PANELS.items():
        for module in modules:
            for info in (*module.app.registered_commands, *module.app.registered_groups):
                info.rich_help_panel = panel
            app.add_typer(module.app)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 1 failed, 2 usage, 3 cannot start."""
    return cli.run_app(build(), "dispatcher", argv, explain=_explain)


def _explain(error: Exception) -> Failed | None:
    if isinstance(error, CannotStart | SettingError):
        return Failed(str(error), strays().hint(str(error)), code=cli.CANNOT_START)
    if isinstance(error, StoreError):
        return Failed(str(error))
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        return Failed("what was typed is not text in UTF-8", code=cli.USAGE)
    return explain(error) if isinstance(error, PostbackError) else None
