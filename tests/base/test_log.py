"""log.py: one bounded line per event, safe to read by people and by programs, without secrets."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.audit import new_entry
from dispatcher.server import LOG_STYLE
from dispatcher.store import audit
from receiver.base import log
from receiver.base.log import LogFormat, LogLevel
from tests import marks


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Give the process its logging back."""
    before = marks.look()
    yield
    marks.put_back(before)


def configured(
    fmt: LogFormat = "json", level: LogLevel = "info", stream: io.StringIO | None = None
) -> io.StringIO:
    stream = io.StringIO() if stream is None else stream
    log.configure(LOG_STYLE, fmt, level, stream)
    return stream


def fail(error: Exception) -> None:
    raise error


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_its_fields() -> None:
    stream = configured()
    log.get("dispatcher.engine").info("attempt", id="cb_1", n=2, ok=True, none=None)

    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "info", "logger": "engine", "event": "attempt",
        "id": "cb_1", "n": 2, "ok": True, "none": None,
    }  # fmt: skip


def test_the_audit_trail_is_written_whatever_the_level() -> None:
    stream = configured(level="error")
    entry = new_entry(
        "key.create",
        at_ms=1_000,
        actor="key_1",
        tenant=None,
        target="key_2",
        detail={"scopes": ["read"]},
        reason="ticket 4711",
    )
    audit.write_to_log([entry])
    log.get("dispatcher.api").warning("not this one")
    line = json.loads(stream.getvalue())
    assert (line["logger"], line["event"], line["level"]) == ("audit", "key.create", "info")
    assert (line["id"], line["actor"], line["tenant"]) == (entry.id, "key_1", None)
    assert (line["detail"], line["reason"]) == ({"scopes": ["read"]}, "ticket 4711")


def test_levels_below_the_one_that_is_set_are_not_written() -> None:
    stream = configured(level="warning")
    engine = log.get("dispatcher.engine")
    engine.debug("a")
    engine.info("b")
    engine.warning("c")
    engine.error("d")

    assert [line["event"] for line in lines(stream)] == ["c", "d"]


@pytest.mark.parametrize(
    ("fmt", "stream", "as_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
    ],
)
def test_auto_is_text_on_a_terminal_and_json_elsewhere(
    fmt: LogFormat, stream: io.StringIO, as_json: bool
) -> None:
    log.get("dispatcher.engine")
    configured(fmt, stream=stream)
    log.get("dispatcher.engine").info("started")

    assert stream.getvalue().startswith("{") == as_json


def test_colours_are_for_terminals_and_no_color_is_respected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = configured("text", stream=Terminal())
    log.get("dispatcher.engine").info("started", port=8600)
    plain = configured("text", stream=io.StringIO())
    log.get("dispatcher.engine").info("started", port=8600)
    monkeypatch.setenv("NO_COLOR", "1")
    refused = configured("text", stream=Terminal())
    log.get("dispatcher.engine").info("started", port=8600)

    assert "\x1b[32m" in coloured.getvalue()
    assert re.fullmatch(r"[\d:.]{12} info    engine: started port=8600\n", plain.getvalue())
    assert "\x1b" not in refused.getvalue()


def test_configuring_again_does_not_double_the_lines() -> None:
    first, second = configured(), configured()
    log.get("dispatcher.engine").info("once")

    assert (len(lines(first)), len(lines(second))) == (0, 1)


def test_other_libraries_and_uvicorn_write_the_same_way() -> None:
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.addHandler(logging.StreamHandler())
    uvicorn.propagate = False
    stream = configured()
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("uvicorn.error").warning("Exceeded %d requests", 7)
    logging.getLogger("aiohttp.client").warning("odd %s", "answer")

    assert [(line["logger"], line["event"]) for line in lines(stream)] == [
        ("uvicorn.error", "Exceeded 7 requests"),
        ("aiohttp.client", "odd answer"),
    ]


@pytest.mark.parametrize("fmt", ["json", "text"])
def test_a_hostile_value_stays_on_its_line(fmt: LogFormat) -> None:
    """Newlines, escape sequences and direction marks of a peer cannot forge or hide lines."""
    stream = configured(fmt)
    hostile = 'x\n2026-01-31 info forged\r\x1b[2J\x00\x7f\u202e"\ud800'
    log.get("dispatcher.engine").info(f"event {hostile}", detail=hostile)

    written = stream.getvalue()
    assert written.count("\n") == 1
    assert "\x1b" not in written
    assert "\r" not in written
    if fmt == "text":
        assert written[:-1].isprintable()


@pytest.mark.parametrize("fmt", ["json", "text"])
@pytest.mark.parametrize(
    "fields",
    [
        {"detail": "x" * 100_000},
        {f"field{n}": "x" * 2_000 for n in range(50)},
        {f"field{n}": n for n in range(10_000)},
        {"detail": ["x" * 1_000] * 1_000},
        {"detail": b"x" * 100_000},
        {"detail": "\x00" * 2_048, "other": "\x01" * 2_048},
    ],
    ids=["long", "many-long", "many", "list", "bytes", "escaped"],
)
def test_i7_a_line_is_bounded(fmt: LogFormat, fields: dict[str, Any]) -> None:
    stream = configured(fmt)
    log.get("dispatcher.engine").info("attempt", **fields)

    written = stream.getvalue()
    assert written.count("\n") == 1
    assert "attempt" in written
    assert len(written) <= log.LINE_CHARS_MAX + 1


def test_a_line_that_is_cut_still_says_what_it_is_about() -> None:
    stream = configured()
    fields = {f"f{n}": "x" * 2_000 for n in range(10)}
    log.get("dispatcher.engine").info("attempt", id="cb_1", **fields)

    (line,) = lines(stream)
    assert (line["id"], line["truncated"]) == ("cb_1", True)


@pytest.mark.parametrize("fmt", ["json", "text"])
def test_an_exception_comes_with_its_traceback(fmt: LogFormat) -> None:
    stream = configured(fmt)
    try:
        fail(LookupError("no such lane"))
    except LookupError:
        log.get("dispatcher.engine").exception("sweep failed", lane="ds_1")

    written = stream.getvalue()
    assert "Traceback" in written
    assert "LookupError: no such lane" in written
    assert "test_log.py" in written
    if fmt == "json":
        assert lines(stream)[0]["level"] == "error"


def test_i7_a_traceback_is_bounded_and_keeps_its_end() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise RuntimeError("x" * 3_000 + " the end")

    stream = configured()
    try:
        deep(200)
    except RuntimeError:
        log.get("dispatcher.engine").exception("failed")

    assert "the end" in lines(stream)[0]["traceback"]
    assert len(stream.getvalue()) <= log.LINE_CHARS_MAX + 1


@pytest.mark.parametrize("fmt", ["json", "text"])
def test_i8_what_looks_like_a_secret_is_not_written(fmt: LogFormat) -> None:
    stream = configured(fmt)
    secrets = ("whsec_dGVzdA==", "pbk_test-key", "Bearer test-token", "bearer  test-token")
    try:
        fail(ValueError(f"bad key {secrets[1]}"))
    except ValueError:
        more = {"header": secrets[2], "nested": [secrets[3]]}
        log.get("dispatcher.api").exception(f"refused {secrets[0]}", **more)

    written = stream.getvalue()
    for hidden in ("dGVzdA", "test-key", "test-token"):
        assert hidden not in written
    assert "whsec_***" in written


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.text(),
    st.dictionaries(
        st.text(st.sampled_from("abcdef"), min_size=1, max_size=5).map("f_".__add__),
        st.one_of(
            st.text(), st.binary(), st.integers(), st.floats(), st.none(), st.lists(st.text())
        ),
        max_size=4,
    ),
)
def test_no_event_is_lost_whatever_its_fields(event: str, fields: dict[str, Any]) -> None:
    for fmt in ("json", "text"):
        stream = configured("json" if fmt == "json" else "text")
        log.get("dispatcher.engine").info(event, **fields)
        assert stream.getvalue().count("\n") == 1
