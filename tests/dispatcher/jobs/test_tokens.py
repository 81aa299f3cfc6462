"""Tokens in URLs: good for what they were made for, and for nothing else."""

import hmac
from base64 import urlsafe_b64encode
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.jobs import tokens
from dispatcher.jobs.tokens import KEY_BYTES, Grant, Purpose

KEY, OTHER = bytes(KEY_BYTES), bytes(range(KEY_BYTES))
JOB = "0190f3a1b2c37d4e85f60718293a4b5c"
grants = st.builds(
    Grant,
    st.uuids().map(lambda one: one.hex),
    st.integers(1, 10**9),
    st.integers(1, 10**17),
    st.integers(1, 10**15),
)
purposes = st.sampled_from(get_args(Purpose))


@given(grants, purposes)
def test_a_token_says_what_it_stands_for(grant: Grant, purpose: Purpose) -> None:
    """To whoever has the key, or the one before it; it fits into a path, and names no tenant."""
    token = tokens.make(KEY, purpose, grant)
    assert tokens.read([KEY], purpose, grant.job, token) == grant
    assert tokens.read([OTHER, KEY], purpose, grant.job, token) == grant
    assert len(token) <= 128
    assert all(one.isalnum() or one in "._-" for one in token)
    assert token.isascii()


@given(grants, purposes)
def test_a_token_is_what_every_version_makes_of_a_grant(grant: Grant, purpose: Purpose) -> None:
    """An HMAC-SHA256 by the key itself: what was handed out before an upgrade is good after it."""
    said = f"{grant.run}.{grant.claim}.{grant.expires_ms}"
    signed = f"postback:{purpose}:{grant.job}:{said}".encode()
    mac = urlsafe_b64encode(hmac.digest(OTHER, signed, "sha256")[:24]).decode()
    assert tokens.make(OTHER, purpose, grant) == f"{said}.{mac}"


@given(grants, purposes, st.data())
def test_a_token_is_good_for_nothing_else(
    grant: Grant, purpose: Purpose, data: st.DataObject
) -> None:
    """Another key, purpose or job, or one character that is another one."""
    token = tokens.make(KEY, purpose, grant)
    other = next(one for one in get_args(Purpose) if one != purpose)
    assert tokens.read([OTHER], purpose, grant.job, token) is None
    assert tokens.read([], purpose, grant.job, token) is None
    assert tokens.read([KEY], other, grant.job, token) is None
    if grant.job != JOB:
        assert tokens.read([KEY], purpose, JOB, token) is None
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("0123456789abcXYZ.-_ ").filter(lambda one: one != token[at]))
    changed = token[:at] + letter + token[at + 1 :]
    assert tokens.read([KEY], purpose, grant.job, changed) is None


@given(st.text(max_size=80))
def test_any_text_is_no_token(text: str) -> None:
    assert tokens.read([KEY], "progress", JOB, text) is None
