"""What every listing has: which ones, how many, and how they are printed. `replay`, and what
changes many jobs, choose by the same options."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.table import Table

from dispatcher.cli import options
from dispatcher.cli.service import Service, pages
from dispatcher.client import Page
from dispatcher.client.transport import Call
from receiver.base import cli
from receiver.base.options import Depends, moment

T = TypeVar("T")
PANEL: Final = "Which ones"
"""Under which the options that choose stand in a help."""
_PAGE_MAX: Final = 500  # what one request may ask for
_LIMIT: Final = 20

Tag = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Carry this tag (repeatable).", rich_help_panel=PANEL),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        parser=moment,
        help="Of this time or later: 30m, 2h, 7d (ago), or ISO-8601.",
        rich_help_panel=PANEL,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(metavar="TIME", parser=moment, help="Of before this time.", rich_help_panel=PANEL),
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help=f"How many. (default: {_LIMIT})")
]
All = Annotated[bool, typer.Option("--all", help="All of them, page by page.")]


def given(tag: list[str] | None = None, **fields: object) -> dict[str, Any]:
    """Return the fields of a filter that were given, its `tags` among them."""
    named = {**fields, "tags": options.pairs(tag, "--tag") or None}
    return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Take:
    """How many rows of a listing to take; None: all. `is_limited`: as was said."""

    rows_max: int | None
    is_limited: bool = False


def take(limit: Limit = None, all: All = False) -> Take:
    """Return how many the options ask for."""
    if all and limit is not None:
        raise typer.BadParameter("--all and --limit exclude each other")
    return Take(None if all else limit or _LIMIT, limit is not None)


TakeDep = Annotated[Take, Depends(take)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a listing is of: `page` makes the call for a page at a cursor, `table` shows some of its
    items to people, and `what` are they called."""

    page: Callable[[str | None, int], Call[Page[Any]]]
    table: Callable[[Sequence[Any]], Table]
    what: str

    def print(self, service: Service, take: Take) -> None:
        """Print the newest: for programs as they came, for people as tables of a page each, so that
        a long list shows from its beginning."""
        rows = islice(self.rows(service, take), take.rows_max)
        if service.json:
            service.print_rows(came for _, came in rows)
            return
        shown = 0
        while found := [item for item, _ in islice(rows, _PAGE_MAX)]:
            cli.console().print(self.table(found))
            shown += len(found)
        if not shown:
            cli.error_console().print(f"no {self.what} match", style="dim")
            service.hint_at_tenant()
        elif shown == take.rows_max:
            note = f"the newest {take.rows_max}; --limit N or --all shows more"
            cli.error_console().print(note, style="dim")

    def rows(self, service: Service, take: Take) -> Iterator[tuple[Any, bytes]]:
        """Yield each item with the JSON that it came as, page after page."""
        left = take.rows_max

        def build(cursor: str | None) -> Call[Page[Any]]:
            return self.page(cursor, _PAGE_MAX if left is None else min(left, _PAGE_MAX))

        for found in pages(service, build):
            yield from found
            left = None if left is None else max(1, left - len(found))


def shown(filters: Mapping[str, str]) -> str:
    """Return a filter as people read it."""
    return " ".join(f"{name}={value}" for name, value in filters.items())
