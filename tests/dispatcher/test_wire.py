"""The wire's types, from the side of whoever reads answers."""

import subprocess
import sys
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec

from dispatcher import wire
from dispatcher.policy import PRESETS, PresetName

MOMENT = "2026-01-31T12:00:00.123Z"


class Accepted(wire.AcceptedView[datetime], frozen=True, kw_only=True):
    """As a client reads it."""


class Destination(wire.DestinationView[datetime, dict[str, Any]], frozen=True, kw_only=True):
    """As a client reads it."""


def test_an_answer_is_read_with_datetimes_and_without_what_is_new() -> None:
    """A later service may add fields; an older client keeps working."""
    view = wire.AcceptedView(
        id="cb_1", job_id="job", status="pending", created_at=MOMENT, duplicate=False
    )
    text = msgspec.json.encode(view).replace(b"{", b'{"new":[1],', 1)
    assert MOMENT.encode() in text
    read = msgspec.json.decode(text, type=Accepted)
    assert read.created_at == datetime(2026, 1, 31, 12, 0, 0, 123_000, tzinfo=UTC)


def test_a_policy_is_read_with_fields_that_are_new() -> None:
    """A request's policy is strict, an answer's is not."""
    text = (
        b'{"id":"ds","url":"u","health":"healthy","backlog":0,"sending":0,"paused":false,'
        b'"disabled":false,"createdAt":"%s","policy":{"attempts":1,"new":2}}' % MOMENT.encode()
    )
    assert msgspec.json.decode(text, type=Destination).policy == {"attempts": 1, "new": 2}


def test_what_is_shown_once_is_in_no_repr() -> None:
    """I8: keys and secrets stay out of logs and tracebacks."""
    key = wire.NewKeyView(
        id="key_1", tenant=None, scopes=["read"], label="", created_at=MOMENT, key="pbk_hidden"
    )
    secret = wire.ShownSecretView(id="sec_1", created_at=MOMENT, active=True, secret="whsec_hidden")
    assert "hidden" not in repr(key) + repr(secret)


def test_every_preset_can_be_named() -> None:
    """The names that requests may use are those of the presets there are."""
    assert set(get_args(PresetName)) == set(PRESETS)


def test_it_needs_neither_a_server_nor_a_database() -> None:
    """A client is installed with msgspec and httpx alone."""
    code = (
        "import sys, dispatcher.wire\n"
        "there = {'starlette', 'uvicorn', 'aiohttp', 'aiosqlite', 'psycopg'}\n"
        "sys.exit(', '.join(there & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
