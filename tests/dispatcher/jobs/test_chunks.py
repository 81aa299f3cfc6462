"""chunks.py: what an answer is made of that comes in chunks, however it is cut on its way."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.jobs.chunks import (
    CHUNK_BYTES_MAX,
    CHUNKS_MAX,
    Framing,
    Joined,
    Piece,
    Reader,
    TooManyChunks,
    framing,
    value_of,
)
from dispatcher.store.jobs.chunks import split


def read(how: Framing, *parts: bytes) -> list[Piece]:
    reader = Reader(how)
    found = [piece for part in parts for piece in reader.feed(part)]
    return found + list(reader.end())


def overfill(reader: Reader, data: bytes) -> None:
    for _ in range(100):
        list(reader.feed(data))


@pytest.mark.parametrize(
    ("kind", "coding", "how"),
    [
        ("text/event-stream", None, "events"),
        ("Text/Event-Stream; charset=utf-8", "identity", "events"),
        ("application/x-ndjson", None, "lines"),
        ("application/jsonl", "", "lines"),
        ("application/json", None, None),
        ("text/plain", None, None),
        ("", None, None),
        ("text/event-stream", "gzip", None),
    ],
)
def test_a_type_says_how_an_answer_is_read(
    kind: str, coding: str | None, how: Framing | None
) -> None:
    """What is compressed, though nobody asked for it, is one whole."""
    assert framing(kind, coding) == how


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_end_with_an_empty_line(end: bytes) -> None:
    """Comments and fields that are not known say nothing; an event without data is none, and one
    that nothing ends is none either."""
    lines = [
        b": a comment", b"id: 7", b"data: one", b"", b"data:two", b"data:  lines", b"retry: 5", b"",
        b"event: progress", b"data: 50", b"", b"event: progress", b"", b"data", b"", b"data: cut",
    ]  # fmt: skip
    body = b"\xef\xbb\xbf" + end.join(lines)
    expected = [Piece(b"one"), Piece(b"two\n lines"), Piece(b"50", is_progress=True), Piece(b"")]
    assert read("events", body) == expected
    assert read("events", *(body[at : at + 1] for at in range(len(body)))) == expected


def test_lines_are_chunks() -> None:
    """Empty ones are none; the last one needs no end."""
    body = b'{"a":1}\r\n\n  \n"b"\nplain text\n{"c":\r1}'
    expected = [Piece(one) for one in (b'{"a":1}', b'"b"', b"plain text", b'{"c":\r1}')]
    assert read("lines", body) == expected
    assert read("lines", *(body[at : at + 1] for at in range(len(body)))) == expected


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))), st.data())
def test_it_does_not_matter_how_events_are_cut(texts: list[str], data: st.DataObject) -> None:
    body = "".join(f"data: {one}\n\n" for one in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert [one.data for one in read("events", *parts)] == [one.encode() for one in texts]


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' {"a": 1} ', b'{"a": 1}'),
        (b"12", b"12"),
        (b"null", b"null"),
        (b"[DONE]", b'"[DONE]"'),
        (b"NaN", b'"NaN"'),
        (b"two\nlines", b'"two\\nlines"'),
        (b"", b'""'),
        (b"\xff", '"\ufffd"'.encode()),
        (b"[" * 5_000, b'"' + b"[" * 5_000 + b'"'),
    ],
)
def test_a_chunk_is_json_where_it_is_some_else_a_string(data: bytes, value: bytes) -> None:
    assert value_of(data) == value
    json.loads(value)


@given(st.lists(st.binary(max_size=60), max_size=20), st.integers(0, 25), st.integers(0, 200))
def test_all_of_them_are_an_array(datas: list[bytes], first: int, size: int) -> None:
    """Which any part of them is, too."""
    joined = Joined()
    values = [value_of(one) for one in datas]
    for one in values:
        joined.add(one)
    assert split(joined.array()) == values
    assert len(joined.array()) == joined.size
    json.loads(joined.array())
    assert [joined.value(n) for n in range(len(values))] == values
    part, count = joined.since(first, size)
    assert split(part) == values[first : first + count]
    assert count or first >= len(values)


@pytest.mark.parametrize("how", ["events", "lines"])
def test_a_chunk_has_a_size_at_most(how: Framing) -> None:
    """Nothing longer is held, whether its end comes or not."""
    reader = Reader(how)
    with pytest.raises(TooManyChunks, match="1048576 bytes"):
        overfill(reader, b"data: " + b"x" * 16_384)
    assert reader.held < CHUNK_BYTES_MAX + 65_536
    with pytest.raises(TooManyChunks):
        overfill(Reader("events"), b"data: " + b"x" * 16_384 + b"\n")
    with pytest.raises(TooManyChunks):
        value_of(b"\0" * (CHUNK_BYTES_MAX // 4))


def test_a_call_brings_so_many_at_most() -> None:
    joined = Joined()
    for _ in range(CHUNKS_MAX):
        joined.add(b"1")
    with pytest.raises(TooManyChunks, match="10000 chunks"):
        joined.add(b"1")
    assert joined.count == CHUNKS_MAX
