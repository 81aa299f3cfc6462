"""Waiting for one callback to come to its end."""

import typer

from dispatcher.cli import output
from dispatcher.cli.service import Service
from dispatcher.cli.show import print_story
from dispatcher.client.calls import get


def await_end(service: Service, id: str, timeout_s: float) -> None:
    """Wait, then show it. Exits with 1 unless it was delivered."""
    with output.error_console().status("waiting for its delivery …"):
        callback = service.client.wait(id, timeout_s)
    if service.json:
        service.show(get(id))
    else:
        print_story(output.console(), service.client.get(id), service.client.attempts(id))
    if callback.status != "delivered":
        raise typer.Exit(1)
