"""The command line: what there is, and how a command ends."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, cast

import typer

from dispatcher import VERSION
from dispatcher.cli import (
    access,
    destinations,
    doctor,
    failure,
    listing,
    move,
    replay,
    send,
    serve,
    show,
    stats,
)
from dispatcher.cli.options import examples
from dispatcher.cli.service import ApiKey, AsJson, Globals, Tenant, Url
from dispatcher.client import PostbackError
from dispatcher.store.errors import CannotStart, StoreError
from receiver.base.settings import SettingError

# Typer carries a click of its own, and shows of its errors only this leaf; ClickException is the
# root of all that it raises about what was typed.
_UsageError: Final = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])
_START: Final = examples(
    "dispatcher serve                        [dim]# run it[/dim]",
    "dispatcher list --status dead           [dim]# find what failed[/dim]",
    "dispatcher show cb_…                    [dim]# understand it[/dim]",
    "dispatcher replay --status dead --dry-run",
)
_PANELS: Final[dict[str, tuple[Any, ...]]] = {
    "Run the service": (serve, move, doctor),
    "Callbacks": (send, listing, show, replay, stats),
    "Setting up": (destinations, access),
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
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True, epilog=_START)(_root)
    for panel, modules in _PANELS.items():
        for module in modules:
            for info in (*module.app.registered_commands, *module.app.registered_groups):
                info.rich_help_panel = panel
            app.add_typer(module.app)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 1 failed, 2 usage, 3 cannot start."""
    try:
        code = build()(
            list(sys.argv[1:] if argv is None else argv),
            prog_name="dispatcher",
            standalone_mode=False,
        )
    except _UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "dispatcher"
        if message := error.format_message():  # a group without a command shows its help instead
            failure.say(message, f"{where} --help")
        return failure.USAGE
    except failure.Failed as error:
        failure.say(str(error), error.hint)
        return error.code
    except (CannotStart, SettingError) as error:
        failure.say(str(error))
        return failure.CANNOT_START
    except StoreError as error:
        failure.say(str(error))
        return failure.FAILED
    except PostbackError as error:
        failure.report(error)
        return failure.FAILED
    except typer.Abort:
        failure.say("stopped")
        return failure.FAILED
    return code if isinstance(code, int) else 0
