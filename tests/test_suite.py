"""The suite itself: its tests leave their process as it was, and its longest files run first."""

import json
import logging
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from tests import marks, order


def test_what_is_left_in_a_process_is_told_and_put_back() -> None:
    before, logger = marks.look(), logging.getLogger("dispatcher")
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    logging.disable(logging.INFO)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    os.environ["POSTBACK_LEFT"] = "a"
    os.umask(0o007)
    told = [one.partition(":")[0] for one in marks.put_back(before)]
    assert told == ["loggers", "logging.disable", "signals", "environment", "umask"]
    assert marks.look() == before
    assert marks.put_back(before) == []


def test_a_file_that_is_weighed_is_there() -> None:
    """Else nobody sees that it has moved, and runs last."""
    weighed = json.loads(order.SECONDS.read_text("utf-8"))
    assert [one for one in weighed if not (order.ROOT / one).is_file()] == []


def test_the_longest_files_come_first_and_each_stays_in_its_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(order, "SECONDS", tmp_path / "seconds.json")
    took = {"a.py::x": 0.4, "a.py::y": 0.4, "b.py::x": 3.0, "c.py::x[::1]": 2.0, "c.py::y": 3.0}
    order.write_down(SimpleNamespace(nodeid=one, duration=s) for one, s in took.items())  # type: ignore[misc]
    items: list[Any] = [SimpleNamespace(nodeid=one) for one in took]
    order.longest_first(items)
    assert [one.nodeid for one in items] == [
        *("c.py::x[::1]", "c.py::y", "b.py::x", "a.py::x", "a.py::y")
    ]
