"""`receiver serve`: run it, with the customer's code or in front of a local service."""

import importlib
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from receiver.base.cli import CANNOT_START, USAGE
from receiver.base.options import Host, Port, command
from receiver.base.settings import SettingError
from receiver.cli.common import WHERE_FROM, end
from receiver.settings import SECRETS, load, strays

if TYPE_CHECKING:
    from receiver.app import Receiver

app = typer.Typer()


@command(
    app,
    "serve",
    "RECEIVER_SECRETS=whsec_… receiver serve --handler shop:receiver",
    "receiver serve --handler shop.jobs:fulfil --on completed",
    "receiver serve --forward http://127.0.0.1:3000/completions",
)
def serve_command(
    handler: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME",
            help="Your function, called with each new completion; or your own Receiver.",
        ),
    ] = None,
    forward: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Post each new completion on to this local service."),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(help="Only for this status (completed, failed, …); may be repeated."),
    ] = None,
    host: Host = None,
    port: Port = None,
    path: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where messages are posted to.")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The inbox; otherwise RECEIVER_DATABASE_URL."),
    ] = None,
) -> None:
    """Run the receiver. Options win over the environment's RECEIVER_* settings, each of which may
    stand in a file that RECEIVER_*_FILE names."""
    from receiver.handling.forward import Forwarder
    from receiver.server import CannotStart, serve

    if handler and forward:
        end("give --handler or --forward, not both", USAGE)
    if on and not (handler or forward):
        end("--on needs --handler or --forward", USAGE)
    forwarder = None
    try:
        given = {"host": host, "port": port, "path": path, "database_url": database_url}
        options = {name: value for name, value in given.items() if value is not None}
        receiver = _receiver(handler, on or [], options)
        if forward:
            settings = receiver.settings
            forwarder = Forwarder(
                forward, timeout_s=settings.handler_timeout, ca_file=settings.ca_file
            )
            receiver.on(*(on or ["*"]))(forwarder)
    except SettingError as error:
        end(str(error), CANNOT_START, _hint(error))
    except (TypeError, ValueError) as error:
        end(str(error), USAGE)
    try:
        serve(receiver, on_stopped=forwarder.close if forwarder else None)
    except (SettingError, CannotStart) as error:
        end(str(error), CANNOT_START, _hint(error))


def _receiver(handler: str | None, on: list[str], options: dict[str, Any]) -> "Receiver":
    """Return the customer's own receiver, or one with the customer's function, or one with none."""
    from receiver.app import Receiver

    if handler is None:
        return Receiver(replace(load(), **options))
    target = _load(handler)
    if not isinstance(target, Receiver):
        made = Receiver(replace(load(), **options))
        made.on(*(on or ["*"]))(target)
        return made
    if options:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        end(f"{handler} is a Receiver with settings of its own: leave out {names}", USAGE)
    if on:
        end(f"--on is for functions; {handler} is a Receiver, whose handlers say it", USAGE)
    if not target.handlers:
        end(f"{handler} handles nothing", USAGE, 'give it a handler: @receiver.on("completed")')
    return target


def _load(name: str) -> Any:
    """Return the object that `module:name` names; modules of the working directory come first."""
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        end(f"--handler must be MODULE:NAME, such as shop:receiver, not {name!r}", USAGE)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        target: Any = importlib.import_module(module)
        for part in path.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        end(f"cannot load {name}: {error}", USAGE, _clash(module))
    except SettingError:
        raise
    except Exception as error:  # the customer's code may raise anything
        end(f"cannot load {name}: {_summary(error)}", CANNOT_START)
    return target


def _clash(module: str) -> str | None:
    """Return what to do about a module that has the name of a package of ours."""
    first = module.partition(".")[0]
    if first not in ("receiver", "dispatcher"):
        return None
    mine = Path(f"{first}.py")
    if mine.is_file():
        return f"{mine} has the name of a package of Postback's: rename it, to my_{mine} say"
    return f"{first} is the name of a package of Postback's: give your module another"


def _summary(error: Exception) -> str:
    """Return the error and where it arose, in one line: the rest of the traceback is not theirs."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({frames[-1].filename}, line {frames[-1].lineno})"


def _hint(error: Exception) -> str | None:
    misspelt = strays().hint(str(error))
    missing = error.missing if isinstance(error, SettingError) else None
    return misspelt or (WHERE_FROM if missing == SECRETS else None)
