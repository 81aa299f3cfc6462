"""Watching a job from the command line: one line that changes, or a line for each thing that it
does."""

import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.service import Service
from dispatcher.client import Client, Job, JobEvent, PostbackError, WaitTimeout
from dispatcher.client.calls.build import dumps
from receiver.base import cli

_TICK_S: Final = 0.25
_BAR: Final = 24
_EXCERPT_CHARS: Final = 160


_WAITS: Final = {
    "capacity": "as many calls run as may",
    "paused": "its endpoint is paused",
    "unhealthy": "its upstream's health check fails",
    "circuit": "its upstream cannot be reached",
    "retry-after": "its upstream asked for a pause",
    "turned-away": "its upstream turned calls away",
    "rate": "its endpoint's rate is used up",
    "not_before": "it is not to run yet",
    "tenant_limit": "as many of its tenant's jobs run as may",
}


def wait_words(why: str) -> str:
    """Return what a job waits for; of a newer service its word as it stands."""
    return _WAITS.get(why, why)


@dataclass(slots=True)
class View:
    """What a line says of a job."""

    status: str = ""
    position: int | None = None
    about: bool = False
    why: str | None = None
    progress: float | None = None
    step: str | None = None
    chunks: int = 0
    since_s: float = 0.0

    def take(self, event: JobEvent) -> None:
        """Note what a job does."""
        if event.what == "status" and event.status is not None:
            if event.status != self.status:
                self.since_s = time.monotonic()
                self.progress = self.step = None
            self.status, self.position = event.status, event.position
            self.about = event.position_exactly is False
            self.why = event.held_reason or event.waiting_for
        elif event.what == "progress":
            self.progress, self.step = event.progress, event.current_step
        elif event.what == "output":
            self.chunks = (event.index or 0) + 1

    def line(self, *, is_timed: bool = True) -> Text:
        """Return it in words."""
        line = options.word(self.status) if self.status else Text("…", "dim")
        if self.status == "queued":
            if self.position is not None:
                line.append(f"  at {'about ' if self.about else ''}{self.position:,}")
            if self.why:
                line.append_text(cli.plain(f"  {wait_words(self.why)}", "dim"))
        if self.progress is not None:
            line.append(f"  {self.progress:g} %")
        if self.step:
            line.append_text(cli.plain(f"  {cli.short(self.step, 40)}"))
        if self.chunks:
            line.append(f"  {self.chunks:,} chunk{'s' if self.chunks > 1 else ''}")
        if is_timed:
            line.append(f"  {cli.span(time.monotonic() - self.since_s)}", "dim")
        return line

    def shown(self) -> Table:
        """Return it with a bar, where something is known of how far it is."""
        grid = Table.grid(padding=(0, 1))
        if self.progress is None:
            grid.add_row(Spinner("dots"), self.line())
        else:
            grid.add_row(ProgressBar(100, self.progress, width=_BAR), self.line())
        return grid


def updates(client: Client, id: str, timeout_s: float) -> Iterator[JobEvent | None]:
    """Yield what a job does, until its end, and None now and then between. Raises WaitTimeout, and
    what `watch` raises."""
    # In a thread of its own: a stream on which nothing comes says nothing either.
    arrived: queue.SimpleQueue[JobEvent | Exception] = queue.SimpleQueue()

    def watch() -> None:
        try:
            for event in client.watch(id):
                arrived.put(event)
        except Exception as error:  # told to who waits
            arrived.put(error)

    threading.Thread(target=watch, daemon=True, name="watch").start()
    ends_s, status = time.monotonic() + timeout_s, ""
    while True:
        try:
            event = arrived.get(timeout=max(0.0, min(_TICK_S, ends_s - time.monotonic())))
        except queue.Empty:
            if time.monotonic() >= ends_s:
                raise WaitTimeout.of(id, status, timeout_s, None) from None
            yield None
            continue
        if isinstance(event, Exception):
            raise event
        status = event.status or status
        yield event
        if event.what == "end":
            return


def live(service: Service, id: str, timeout_s: float) -> Job:
    """Show a job on one line, on the terminal of errors, until its end; return it then."""
    view = View(since_s=time.monotonic())
    console = cli.error_console()
    with Live(view.shown(), console=console, transient=True, auto_refresh=False) as shown:
        for event in updates(service.client, id, timeout_s):
            if event is not None:
                view.take(event)
                if event.job is not None:
                    return event.job
            shown.update(view.shown(), refresh=True)
    raise PostbackError("BAD_ANSWER", "the stream of events has no end")


def print_all(service: Service, id: str, timeout_s: float) -> Job:
    """Print a line for each thing that a job does, until its end; return it then."""
    out = cli.console()
    for event in updates(service.client, id, timeout_s):
        if event is None:
            continue
        if service.json:
            cli.print_json_lines([_document(event)])
        else:
            _print(out, event)
        if event.job is not None:
            return event.job
    raise PostbackError("BAD_ANSWER", "the stream of events has no end")


def _document(event: JobEvent) -> bytes:
    """Return an event as JSON, without what it says nothing of."""
    said = {name: value for name, value in msgspec.to_builtins(event).items() if value is not None}
    if event.what == "output":
        said["output"] = event.output
    if event.job is not None:
        said["job"] = msgspec.to_builtins(event.job)
    return dumps(said)


def _print(out: Console, event: JobEvent) -> None:
    at = Text(f"{cli.stamp(datetime.now(UTC))}  ", "dim")
    if event.what == "output":
        shown = event.output if isinstance(event.output, str) else dumps(event.output).decode()
        said = cli.plain(f"chunk {event.index}  {cli.short(shown, _EXCERPT_CHARS)}")
    elif event.job is not None:
        said = options.word(event.job.status)
        said.append(f"  {event.job.reason}" if event.job.reason else "", style="dim")
    else:
        view = View(status="running")
        view.take(event)
        said = view.line(is_timed=False)
    out.print(at.append_text(said))
    sys.stdout.flush()
