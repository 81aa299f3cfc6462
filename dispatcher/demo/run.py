"""Plays the demonstration and checks every number of it against three ledgers: the dispatcher's,
the receiver's and the customers' own."""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.table import Table

from dispatcher.client import AsyncClient, PostbackError
from dispatcher.demo.customers import fulfilled
from dispatcher.demo.processes import Cast, DemoError
from dispatcher.demo.story import DIALECTS, JOBS, Story, playing

_TRY: Final = (
    "DISPATCHER_ALLOW_NETWORKS=127.0.0.0/8 DISPATCHER_ADMIN_KEY=my-first-key dispatcher serve",
    "RECEIVER_SECRETS=$(DISPATCHER_API_KEY=my-first-key dispatcher secrets reveal) receiver serve",
    "DISPATCHER_API_KEY=my-first-key dispatcher send --job-id job_1 --wait "
    '--to http://127.0.0.1:8700/webhooks --payload \'{"jobId": "job_1", "status": "completed"}\'',
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number of the final table, and what it must be."""

    name: str
    found: int
    expected: int
    at_least: bool = False

    @property
    def right(self) -> bool:
        """Whether it is what it must be."""
        return self.found >= self.expected if self.at_least else self.found == self.expected


def run(console: Console | None = None) -> int:
    """Play it. 0 when every number is right, 1 otherwise."""
    out = console or Console(highlight=False)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="postback-demo-") as folder:
        out.print("[bold]Postback[/bold]: a dispatcher, a receiver and two difficult customers\n")
        try:
            figures = asyncio.run(_play(Path(folder), out))
        except (DemoError, PostbackError) as error:
            out.print(f"\n[bold red]The demo failed:[/bold red] {error}")
            _show_logs(out, Path(folder))
            return 1
    out.print()
    out.print(_table(figures, time.monotonic() - begun))
    wrong = [figure for figure in figures if not figure.right]
    for figure in wrong:
        out.print(f"[bold red]wrong:[/bold red] {figure.name}: {figure.found}")
    if not wrong:
        out.print("\nNow by hand, in three terminals (with .venv/bin on your PATH):\n")
        for command in _TRY:
            out.print(f"  {command}\n", soft_wrap=True)
    return 1 if wrong else 0


async def _play(folder: Path, out: Console) -> list[Figure]:
    cast = Cast(folder)
    async with playing(cast) as client:
        story = Story(cast, client, out.print)
        await story.tell()
        return await _figures(cast, client, story)


async def _figures(cast: Cast, client: AsyncClient, story: Story) -> list[Figure]:
    tally = story.tally
    counts = (await client.stats()).counts
    inbox = await _inbox(cast)
    effects = fulfilled(cast.shop)
    async with httpx.AsyncClient(trust_env=False) as http:
        handled = (await http.get(f"{cast.customers.url}/handled")).json()
    at_receiver = len(set(tally.submitted["receiver"]))
    return [
        Figure(name="completions", found=tally.total, expected=tally.total),
        Figure(name="  of them results of jobs", found=tally.results, expected=JOBS + DIALECTS),
        Figure(name="  of them submitted twice", found=tally.duplicate_submits, expected=1),
        Figure(name="callbacks delivered", found=counts["delivered"], expected=tally.total),
        Figure(name="callbacks dead, pending or lost", found=tally.total - counts["delivered"],
               expected=0),
        Figure(name="accepted by the receiver", found=inbox["accepted"], expected=at_receiver),
        Figure(
            name="  duplicates it turned away", found=inbox["duplicates"], expected=1, at_least=True
        ),
        Figure(name="  conflicts there", found=inbox["conflict"], expected=0),
        Figure(name="effects of its handler", found=len(effects), expected=at_receiver),
        Figure(name="  jobs handled twice", found=len(effects) - len(set(effects)), expected=0),
        Figure(name="handled by the slow customer", found=handled["slow"],
               expected=len(tally.submitted["slow"])),
        Figure(name="handled by the buggy customer, once fixed", found=handled["buggy"],
               expected=len(tally.submitted["buggy"])),
    ]  # fmt: skip


async def _inbox(cast: Cast) -> dict[str, int]:
    """How many messages of each verdict the receiver keeps."""
    counts = {"accepted": 0, "conflict": 0, "late": 0, "duplicates": 0}
    headers = {"Authorization": f"Bearer {cast.admin_key}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        cursor = None
        while True:
            query = {"limit": "500"} | ({"cursor": cursor} if cursor else {})
            page = (await http.get(f"{cast.receiver.url}/inbox", params=query)).json()
            for message in page["data"]:
                counts[message["status"]] += 1
                counts["duplicates"] += message["duplicates"]
            cursor = page["nextCursor"]
            if cursor is None:
                return counts


def _table(figures: list[Figure], took_s: float) -> Table:
    table = Table(title=f"What came of it, in {took_s:.0f} s", title_justify="left")
    table.add_column("")
    table.add_column("found", justify="right")
    table.add_column("must be", justify="right")
    for figure in figures:
        mark = "[green]✓[/green]" if figure.right else "[bold red]✗[/bold red]"
        expected = f"≥ {figure.expected}" if figure.at_least else str(figure.expected)
        table.add_row(figure.name, str(figure.found), f"{expected} {mark}")
    return table


def _show_logs(out: Console, folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-5:]
        out.print(f"\n[dim]{log.name}:[/dim]", *lines, sep="\n", markup=True, soft_wrap=True)
