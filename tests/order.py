"""Which file runs first: the longest, so that none comes last, to one process while the others have
nothing left to do. `make weigh` runs the suite and writes down how long each took."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SECONDS: Final = Path(__file__).with_name("seconds.json")
_WRITTEN_S: Final = 1.0  # what takes less comes last, in the order of its names


def longest_first(items: list[pytest.Item]) -> None:
    """Order `items` by their files, and leave each file's in their order."""
    seconds: dict[str, float] = json.loads(SECONDS.read_text("utf-8"))
    items.sort(key=lambda item: -seconds.get(_file_of(item.nodeid), 0))


def write_down(reports: Iterable[pytest.TestReport]) -> None:
    """Keep how long each file took in the run that these are of."""
    seconds = defaultdict[str, float](float)
    for report in reports:
        seconds[_file_of(report.nodeid)] += report.duration
    kept = {name: round(took_s, 1) for name, took_s in sorted(seconds.items())}
    kept = {name: took_s for name, took_s in kept.items() if took_s >= _WRITTEN_S}
    SECONDS.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


def _file_of(node: str) -> str:
    return node.partition("::")[0]
