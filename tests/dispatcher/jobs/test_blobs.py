"""Ranges, parts and links of what is kept outside of its row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.jobs import output_links
from dispatcher.jobs.blobs import (
    PART_BYTES,
    Range,
    Unsatisfiable,
    matches,
    parse_range,
    parts_of,
)
from dispatcher.jobs.estimates import RUNS_MIN, output_size
from dispatcher.jobs.output_links import OutputLink

KEY, OTHER = bytes(32), bytes(range(32))
JOB = "0190f3a1b2c37d4e85f60718293a4b5c"
links = st.builds(
    OutputLink, st.uuids().map(lambda one: one.hex), st.integers(1, 10**9), st.integers(1, 10**11)
)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("bytes=0-0", Range(0, 1)),
        ("bytes=0-99", Range(0, 100)),
        ("bytes=90-", Range(90, 100)),
        ("bytes=90-1000", Range(90, 100)),
        ("bytes=-10", Range(90, 100)),
        ("bytes=-1000", Range(0, 100)),
        ("bytes= 5 - 6", Range(5, 7)),
        ("bytes=7-6", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("chapters=1-2", None),
        ("bytes=a-b", None),
    ],
)
def test_one_range_is_understood(header: str | None, wanted: Range | None) -> None:
    """First and last byte, from one on, the last ones; what is no such range asks for the whole."""
    assert parse_range(header, 100) == wanted


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-0", 0)]
)
def test_a_range_behind_the_end_cannot_be_had(header: str, size: int) -> None:
    """416, not the whole."""
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


@given(st.integers(1, 5 * PART_BYTES), st.data())
def test_parts_make_up_their_range(size: int, data: st.DataObject) -> None:
    """Each byte of it once, in order, none beside it."""
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    at = start
    for part in parts_of(Range(start, end)):
        assert 0 <= part.start < part.end <= PART_BYTES
        assert part.n * PART_BYTES + part.start == at
        at += part.end - part.start
    assert at == end


def test_entities_are_compared() -> None:
    """Any of a list, weak ones too, and all of them."""
    assert matches('"a", W/"b"', '"b"')
    assert matches("*", '"b"')
    assert not matches(None, '"b"')
    assert not matches('"bb"', '"b"')


@given(links)
def test_a_link_is_what_it_was_made_for(link: OutputLink) -> None:
    """To whoever has the key, or the one before it; it names no tenant."""
    path, _, query = output_links.path(KEY, link).partition("?")
    given = dict(part.split("=") for part in query.split("&"))
    id = path.removeprefix("/v1/outputs/")
    for keys in ([KEY], [OTHER, KEY]):
        assert output_links.read(keys, id, given["expires"], given["signature"]) == link
    assert output_links.read([OTHER], id, given["expires"], given["signature"]) is None
    assert path.isascii()


@given(links, st.data())
def test_a_link_is_good_for_nothing_else(link: OutputLink, data: st.DataObject) -> None:
    """No other job, run, end of its time or signature."""
    _, _, query = output_links.path(KEY, link).partition("?")
    given = dict(part.split("=") for part in query.split("&"))
    expires, signature = given["expires"], given["signature"]
    others = [
        (f"out_{JOB}_{link.run}", expires, signature),
        (f"out_{link.job}_{link.run + 1}", expires, signature),
        (link.id, str(link.expires_s + 1), signature),
        (link.id, f"0{expires}", signature),
        (link.id.upper(), expires, signature),
        (link.id, expires, ""),
    ]
    at = data.draw(st.integers(0, len(signature) - 1))
    changed = "A" if signature[at] != "A" else "B"
    others.append((link.id, expires, signature[:at] + changed + signature[at + 1 :]))
    for id, until, mac in others:
        if (id, until, mac) != (link.id, expires, signature):
            assert output_links.read([KEY], id, until, mac) is None


def test_what_is_likely_to_come_is_what_came() -> None:
    """From 20 outputs on as 19 in 20 had at most; before that what was written, if anything."""
    assert output_size([10] * (RUNS_MIN - 1), None) is None
    assert output_size([10] * (RUNS_MIN - 1), 77) == 77
    assert output_size([10] * 95 + [1_000] * 5, 77) == 10
    assert output_size([10] * 94 + [1_000] * 6, 77) == 1_000
    assert output_size(list(range(1, 21)), None) == 19
