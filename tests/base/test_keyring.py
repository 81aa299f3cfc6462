"""keyring.py: what is sealed opens with its key, in its place, and not otherwise."""

import base64
import os
import pickle
import traceback
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.base import keyring
from receiver.base.keyring import Keyring, KeyringError, SealedError, kid_of, make_key, read_keys

OLD = ("k2025", bytes(range(32)))
NEW = ("k2026", bytes(range(100, 132)))
RING = Keyring([NEW, OLD])
PLACE = ("secrets", "value", "sc_1", "acme")

places = st.lists(st.text(max_size=20), max_size=5).map(tuple)


@given(st.binary(max_size=300), places)
def test_bytes_come_back_as_they_were(plain: bytes, place: tuple[str, ...]) -> None:
    sealed = RING.seal(plain, *place)
    assert sealed.startswith(b"enc1:k2026:")
    assert len(sealed) == len("enc1:k2026:") + len(plain) + keyring.OVERHEAD
    assert RING.open(sealed, *place) == plain
    assert kid_of(sealed) == "k2026"


@given(st.text(max_size=100), places)
def test_text_comes_back_as_it_was_and_a_plain_one_as_it_is(
    plain: str, place: tuple[str, ...]
) -> None:
    sealed = RING.seal_text(plain, *place)
    assert sealed.isascii()
    assert kid_of(sealed) == "k2026"
    assert RING.open_text(sealed, *place) == plain
    if not plain.startswith("enc1:"):
        assert RING.open_text(plain, *place) == plain
        assert kid_of(plain) is None
        assert keyring.open_text(None, plain, *place) == plain


@given(st.binary(max_size=100), places, places)
def test_what_was_moved_to_another_row_column_or_tenant_does_not_open(
    plain: bytes, place: tuple[str, ...], other: tuple[str, ...]
) -> None:
    """No two places are the same bytes, however their parts are cut."""
    if place == other:
        return
    with pytest.raises(SealedError, match="damaged or stood elsewhere"):
        RING.open(RING.seal(plain, *place), *other)


@pytest.mark.parametrize(
    "other", [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), ("abc", "")]
)
def test_parts_of_a_place_do_not_run_into_each_other(other: tuple[str, ...]) -> None:
    sealed = RING.seal(b"x", "a", "", "bc")
    with pytest.raises(SealedError):
        RING.open(sealed, *other)


@given(st.binary(max_size=60), st.data())
def test_a_changed_byte_or_a_cut_opens_nothing(plain: bytes, data: st.DataObject) -> None:
    sealed = RING.seal(plain, *PLACE)
    at = data.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[at] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(changed), sealed[:at], sealed + b"x"):
        with pytest.raises(SealedError):
            RING.open(bad, *PLACE)


@given(st.text(max_size=60), st.data())
def test_a_changed_text_opens_nothing(plain: str, data: st.DataObject) -> None:
    sealed = RING.seal_text(plain, *PLACE)
    at = data.draw(st.integers(len("enc1:"), len(sealed) - 1))
    letter = data.draw(st.sampled_from("!:é\0 -"))
    if sealed[at] != letter:
        with pytest.raises(SealedError):
            RING.open_text(sealed[:at] + letter + sealed[at + 1 :], *PLACE)
    with pytest.raises(SealedError):
        RING.open_text(sealed[:at], *PLACE)


def test_the_first_key_seals_and_all_open() -> None:
    sealed = Keyring([OLD]).seal(b"before", *PLACE)
    assert RING.kid == "k2026"
    assert RING.kids == ("k2026", "k2025")
    assert kid_of(sealed) == "k2025"
    assert RING.open(sealed, *PLACE) == b"before"
    assert kid_of(RING.seal(b"since", *PLACE)) == "k2026"


def test_a_missing_key_is_told_by_its_name_and_the_value_by_its_place() -> None:
    with pytest.raises(SealedError) as raised:
        Keyring([OLD]).open(RING.seal(b"x", *PLACE), *PLACE)
    assert raised.value.kid == "k2026"
    assert raised.value.missing
    assert str(raised.value) == (
        "secrets/value/sc_1/acme is sealed with the key k2026, which is not in the ring"
    )
    for stored in (RING.seal_text("x", *PLACE), "enc1:k2026:"):
        with pytest.raises(SealedError, match="key k2026, which is not in the ring"):
            keyring.open_text(None, stored, *PLACE)
    with pytest.raises(SealedError, match="key k2026, which is not in the ring"):
        keyring.open_body(None, "k2026", b"x", *PLACE)


def test_another_key_of_the_same_name_opens_nothing() -> None:
    other = Keyring([("k2026", os.urandom(32))])
    with pytest.raises(SealedError) as raised:
        other.open(RING.seal(b"x", *PLACE), *PLACE)
    assert not raised.value.missing


@pytest.mark.parametrize("stored", ["enc1:", "enc1:k2026", "enc1:ké:x", "enc1:" + "k" * 33 + ":x"])
def test_what_begins_as_sealed_and_is_not_never_counts_as_plain(stored: str) -> None:
    assert kid_of(stored) == "?"
    assert kid_of(stored.encode()) == "?"
    with pytest.raises(SealedError):
        RING.open_text(stored, *PLACE)
    with pytest.raises(SealedError):
        RING.open(stored.encode(), *PLACE)


def test_bodies_may_be_any_bytes_their_row_says_whether_they_are_sealed() -> None:
    alike = b"enc1:k2026:but only so"
    assert keyring.open_body(RING, None, alike, *PLACE) == alike
    assert keyring.open_body(RING, "k2026", RING.seal(alike, *PLACE), *PLACE) == alike


def test_no_nonce_comes_twice_and_the_same_value_never_looks_the_same() -> None:
    sealed = {RING.seal(b"same", *PLACE) for _ in range(2_000)}
    assert len(sealed) == 2_000
    nonces = {one[len("enc1:k2026:") :][:12] for one in sealed}
    assert len(nonces) == 2_000


def test_a_made_key_is_one_that_can_be_read() -> None:
    text = make_key()
    [(kid, key)] = read_keys(text, "KEYS")
    assert kid.startswith("k20")
    assert len(kid) == 13
    assert len(key) == 32
    assert make_key() != text


def test_a_list_is_read_at_commas_and_line_ends_in_its_order() -> None:
    parts = [f"{kid}:{base64.b64encode(key).decode()}" for kid, key in (NEW, OLD)]
    for text in (",".join(parts), " ,\n".join(parts), "\r\n".join(parts) + "\n"):
        assert read_keys(text, "KEYS") == [NEW, OLD]


_GOOD = base64.b64encode(NEW[1]).decode()
_BAD_LISTS = {
    "": "no key",
    " , ": "no key",
    _GOOD: "key 1 of KEYS takes a name",
    f"k1:{_GOOD},{_GOOD}": "key 2 of KEYS takes a name",
    f"{_GOOD}:k1": "key 1 of KEYS takes a name",
    f"{'k' * 33}:{_GOOD}": "at most 32",
    f":{_GOOD}": "takes a name",
    f"ké:{_GOOD}": "takes a name",
    f"k1:{_GOOD[:-2]}": "no base64",
    f"k1:{_GOOD}!": "no base64",
    f"k1:{_GOOD[:40]}": "must be 32 bytes",
    f"k1:{base64.b64encode(bytes(33)).decode()}": "must be 32 bytes",
    f"k1:{base64.b64encode(bytes(32)).decode()}": "placeholder",
    f"k1:{_GOOD},k1:{base64.b64encode(OLD[1]).decode()}": "same name",
    ",".join(f"k{n}:{_GOOD}" for n in range(65)): "at most 64",
}


@pytest.mark.parametrize(("text", "why"), _BAD_LISTS.items())
def test_what_is_no_list_of_keys_is_told_by_variable_and_place_and_quotes_no_key(
    text: str, why: str
) -> None:
    with pytest.raises(KeyringError, match=why) as raised:
        read_keys(text, "KEYS")
    said = "".join(traceback.format_exception(raised.value))
    message = str(raised.value)
    assert "KEYS" in message
    for piece in (_GOOD, _GOOD[:16], _GOOD[16:32], repr(NEW[1]), NEW[1].hex()):
        assert piece not in message
        assert piece not in said


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(KeyringError):
        assert Keyring(read_keys(text, "KEYS")).kid in text


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [NEW, (NEW[0], OLD[1])],
        [("k:1", NEW[1])],
        [("", NEW[1])],
        [("k1", b"short")],
        [(f"k{n}", NEW[1]) for n in range(65)],
    ],
)
def test_a_ring_of_other_keys_is_refused(keys: list[tuple[str, bytes]]) -> None:
    with pytest.raises(KeyringError):
        Keyring(keys)


def test_a_ring_shows_the_names_of_its_keys_and_nothing_else() -> None:
    assert repr(RING) == str(RING) == "<Keyring k2026, k2025>"
    assert not hasattr(RING, "__dict__")
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(RING)
