"""Printing a paged list: for programs an object a line as it came, for people a table."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from rich.table import Table

from dispatcher.cli import output
from dispatcher.cli.service import Service
from dispatcher.client.transport import Call

T = TypeVar("T")


class _RawPage(msgspec.Struct, rename="camel"):
    data: list[msgspec.Raw]
    next_cursor: str | None


def print_list(
    service: Service,
    build: Callable[..., Call[Any]],
    type: type[T],
    table: Table,
    row: Callable[[T], None],
    nothing: str,
) -> None:
    """Go through all pages of `build`; `row` adds one item to `table`."""
    cursor = None
    while True:
        page = msgspec.json.decode(service.client.raw(build(cursor=cursor)).body, type=_RawPage)
        if service.json:
            output.print_json_lines(bytes(item) for item in page.data)
        else:
            for item in page.data:
                row(msgspec.json.decode(item, type=type))
        cursor = page.next_cursor
        if cursor is None:
            break
    if service.json:
        return
    if table.row_count:
        output.console().print(table)
    else:
        output.error_console().print(nothing, style="dim")
