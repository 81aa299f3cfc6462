"""Sending a file of callbacks in batches, with a bar, and a word on each line that failed."""

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dispatcher.cli import output
from dispatcher.cli.service import Service
from dispatcher.client import Client

_SHOWN_MAX: Final = 50  # failures told one by one; more of the same help nobody


@dataclass(slots=True)
class _Tally:
    accepted: int = 0
    duplicates: int = 0
    failed: int = 0


def send_file(service: Service, file: Path) -> None:
    """Send every line. Exits with 1 if any failed; run again, and what arrived is a duplicate."""
    tally = _Tally()
    with _opened(file) as source, _bar(service, file) as bar:
        task = bar.add_task("", total=_size(file))
        for result, position in _results(service.client, source):
            bar.update(task, completed=position)
            _count(tally, result)
            if service.json:
                output.print_json_lines([msgspec.json.encode(result)])
            elif "error" in result and tally.failed <= _SHOWN_MAX:
                where = output.plain(f"line {result['line']}: ", "red")
                bar.console.print(where.append_text(output.plain(result["message"])))
    if not service.json:
        _print(tally)
    if tally.failed:
        raise typer.Exit(1)


def _results(client: Client, source: IO[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield what each line came to, as the batch route says it but with the file's line numbers,
    and how far the file is read."""
    numbers = deque[int]()
    position = 0

    def lines() -> Iterator[bytes]:
        nonlocal position
        for number, line in enumerate(source, 1):
            position += len(line)
            if line.strip():
                numbers.append(number)
                yield line

    for result in client.submit_many(lines()):
        found: dict[str, Any] = msgspec.json.decode(result.raw)
        yield found | {"line": numbers.popleft()}, position


def _count(tally: _Tally, result: dict[str, Any]) -> None:
    if "error" in result:
        tally.failed += 1
    elif result.get("duplicate"):
        tally.duplicates += 1
    else:
        tally.accepted += 1


def _print(tally: _Tally) -> None:
    if tally.failed > _SHOWN_MAX:
        hidden = tally.failed - _SHOWN_MAX
        output.error_console().print(f"… and {hidden:,} more failed (--json tells all)")
    line = output.plain(f"{tally.accepted:,} accepted", "green")
    if tally.duplicates:
        line.append(f", {tally.duplicates:,} were there already", style="dim")
    if tally.failed:
        line.append(f", {tally.failed:,} failed", style="bold red")
        line.append(" (mend them and send the file again: the rest is not sent twice)", style="dim")
    output.console().print(line)


def _opened(file: Path) -> Any:
    if str(file) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None


def _size(file: Path) -> int | None:
    return None if str(file) == "-" else file.stat().st_size


def _bar(service: Service, file: Path) -> Progress:
    return Progress(
        TextColumn("sending"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=output.error_console(),
        transient=True,
        disable=service.json or not sys.stderr.isatty(),
    )
