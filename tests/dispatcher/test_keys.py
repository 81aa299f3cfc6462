"""keys.py and pace.py: a key's text tells its own typos, none is made that may do more than its
maker, and a rate says what is left of it."""

import string
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.ids import server_of
from dispatcher.keys import (
    PREFIX,
    UNLIMITED,
    Limits,
    checksum,
    excess,
    inherited,
    is_mistyped,
    is_whole,
    new_text,
)
from dispatcher.pace import paced, quota
from receiver.base.forwarded import Network

LETTERS = string.ascii_letters + string.digits
texts = st.text(LETTERS, min_size=43, max_size=43).map(
    lambda random: f"{PREFIX}{random}{checksum(random)}"
)
earlier = st.text(LETTERS + "-_", min_size=43, max_size=43).map(PREFIX.__add__)


def test_a_text_is_whole_as_it_was_made() -> None:
    """Prefix, 256 random bits, six letters; no character that a double click would end at."""
    text = new_text()
    assert is_whole(text)
    assert not is_mistyped(text)
    assert len(text) == 53
    assert text.removeprefix(PREFIX).isalnum()


@given(texts, st.data())
def test_one_wrong_letter_is_told(text: str, data: st.DataObject) -> None:
    """Any other one, at any place behind the prefix."""
    place = data.draw(st.integers(len(PREFIX), len(text) - 1))
    letter = data.draw(st.sampled_from(LETTERS + "-_ .").filter(lambda one: one != text[place]))
    assert is_mistyped(text[:place] + letter + text[place + 1 :])


@given(texts, st.data())
def test_two_letters_that_changed_places_are_told(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(len(PREFIX), len(text) - 2))
    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    assert is_mistyped(swapped) == (swapped != text)


@given(texts, st.integers(1, 48))
def test_a_missing_end_is_told(text: str, size: int) -> None:
    """Unless it leaves what is as long as a key of before: that may be one."""
    cut = text[:-size]
    assert is_mistyped(cut) == (len(cut) != 47)


@given(earlier)
def test_keys_of_before_have_no_checksum_and_stay_what_they_were(text: str) -> None:
    assert not is_mistyped(text)
    assert not is_whole(text)


@given(st.text().filter(lambda text: not text.startswith(PREFIX)))
def test_what_is_no_key_of_ours_is_not_called_mistyped(text: str) -> None:
    """It may be the key of the settings, which anybody chooses."""
    assert not is_mistyped(text)


@pytest.mark.parametrize(
    ("random", "expected"), [("", "000000"), ("123456789", "3jZRME"), ("a" * 43, "4SHDYg")]
)
def test_the_checksum_is_what_scanners_compute(random: str, expected: str) -> None:
    """CRC-32 of the random part, in base 62 with digits, capitals and small letters."""
    assert checksum(random) == expected


# --- what a key may do ---

networks = st.lists(
    st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32", "192.0.2.0/24"]),
    unique=True,
).map(lambda found: tuple(ip_network(one) for one in found))
limits = st.builds(
    Limits,
    expires_ms=st.none() | st.integers(1, 5),
    networks=networks,
    destinations=st.frozensets(st.sampled_from(["a", "b", "https://c:443"])),
    rate_per_second=st.none() | st.sampled_from([0.5, 1.0, 100.0]),
)
ADDRESSES = ("10.0.0.1", "10.1.0.1", "10.1.2.3", "2001:db8::1", "192.0.2.1", "8.8.8.8")


def may(one: Limits, when: int, address: str, target: str, rate: float) -> bool:
    """Whether a key with these limits may do this."""
    return (
        (one.expires_ms is None or when < one.expires_ms)
        and one.admits(address)
        and (not one.destinations or target in one.destinations)
        and (one.rate_per_second is None or rate <= one.rate_per_second)
    )


DEEDS = [
    (when, address, target, rate)
    for when in range(6)
    for address in ADDRESSES
    for target in ("a", "b", "https://c:443", "d")
    for rate in (0.5, 1.0, 100.0, 1000.0)
]


@given(limits, limits)
def test_whoever_exceeds_nothing_can_do_nothing_more(parent: Limits, child: Limits) -> None:
    """Over all that a key could do; and whoever can do more exceeds something."""
    more = any(may(child, *deed) and not may(parent, *deed) for deed in DEEDS)
    if excess(parent, child) is None:
        assert not more
    else:
        assert more or not any(may(child, *deed) for deed in DEEDS) or parent != child


@given(limits, limits)
def test_what_is_left_out_is_as_with_the_maker(parent: Limits, given: Limits) -> None:
    assert excess(parent, inherited(parent, UNLIMITED)) is None
    assert inherited(UNLIMITED, given) == given
    assert inherited(parent, parent) == parent


def test_a_network_of_the_other_kind_is_in_none() -> None:
    v4: tuple[Network, ...] = (ip_network("0.0.0.0/0"),)
    v6: tuple[Network, ...] = (ip_network("::/0"),)
    assert excess(Limits(networks=v4), Limits(networks=v6)) == "networks"
    assert not Limits(networks=v4).admits("2001:db8::1")
    assert Limits(networks=v4).admits("::ffff:192.0.2.1")
    assert not Limits(networks=v6).admits("")


def test_a_server_is_known_by_scheme_host_and_port() -> None:
    """As its deliveries' destination is: whatever path, case or password its URL has."""
    assert server_of("HTTPS://user:pass@Example.com/hook?x=1") == "https://example.com:443"


# --- rates ---


@given(
    st.sampled_from([0.01, 0.5, 1, 3, 7.5, 1000]),
    st.lists(st.integers(0, 3_000), min_size=1, max_size=60),
)
def test_a_quota_says_what_paced_will_do(rate: float, waits: list[int]) -> None:
    """As many more may come at once as it says, and the next one has to wait."""
    used_ms, now_ms = 0.0, 1_000_000
    for passed in waits:
        now_ms += passed
        used_ms, wait_ms = paced(used_ms, rate, now_ms)
        said = quota(used_ms, rate, now_ms, wait_ms)
        assert 0 <= said.left <= said.quota == max(1, int(rate))
        assert said.window_s >= 1
        assert said.reset_s >= 1
        if wait_ms:
            assert (said.left, said.reset_s * 1000 >= wait_ms) == (0, True)
        again_ms, came = used_ms, 0
        while came <= said.quota:
            again_ms, wait_ms = paced(again_ms, rate, now_ms)
            if wait_ms:
                break
            came += 1
        assert abs(came - said.left) <= (rate == 7.5)  # a part of one is none
