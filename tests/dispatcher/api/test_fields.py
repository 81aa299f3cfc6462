"""The fields with rules of their own: headers, policies, cursors, parameters, identity."""

import contextlib
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api import headers, identity, paging, policies, query
from dispatcher.api.errors import ApiError
from dispatcher.policy import PRESETS, load
from dispatcher.wire import PolicyShape, policy_shape

SIGNATURE = "X-Webhook-Signature"


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Content-Type",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "TE",
        "Upgrade",
        "User-Agent",
        "webhook-id",
        "Webhook-Anything",
        "X-Postback-Attempt",
        "X-Webhook-Signature",
        "x-webhook-signature-previous",
        "Proxy-Authorization",
        "",
        "a b",
        "a\r\nb",
        "a:b",
        "é",
        "x" * 65,
    ],
)
def test_a_header_that_is_not_the_callers_to_set_is_refused(name: str) -> None:
    """Framing, connection and signature headers stay ours; names are tokens."""
    with pytest.raises(ApiError) as caught:
        headers.custom({name: "v"}, SIGNATURE)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "value", ["a\r\nb", "a\nb", "a\0b", "€", "blüe", " a", "a ", "x" * 2_049, "\x7f"]
)
def test_a_header_value_that_could_break_the_message_is_refused(value: str) -> None:
    """No control characters, nothing beyond ASCII; and the error does not repeat it."""
    with pytest.raises(ApiError) as caught:
        headers.custom({"X-Team": value}, SIGNATURE)
    assert caught.value.details == {
        "field": "headers.X-Team",
        "value": None,
        "reason": caught.value.details["reason"],
    }


def test_ordinary_headers_pass_as_they_are() -> None:
    """Order and case are kept; sixteen fit."""
    given_headers = {f"X-Team-{n}": "blue; q=1" for n in range(16)}
    assert headers.custom(given_headers, SIGNATURE) == tuple(given_headers.items())
    assert headers.custom({"Authorization": ""}, SIGNATURE) == (("Authorization", ""),)
    for many in ({**given_headers, "X-More": "1"}, {"X-A": "1", "x-a": "2"}):
        with pytest.raises(ApiError):
            headers.custom(many, SIGNATURE)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_shown_in_the_contracts_shape_and_reads_back_the_same(name: str) -> None:
    """What the API shows for a policy can be given to it again, and means the same."""
    shown = msgspec.json.encode(policy_shape(PRESETS[name]))
    again = policies.text(msgspec.json.decode(shown, type=PolicyShape))
    assert load(again).delay_ms(2, 0.5) == PRESETS[name].delay_ms(2, 0.5)
    assert load(again).acknowledge == PRESETS[name].acknowledge
    assert b"null" not in shown


@pytest.mark.parametrize(
    "text",
    [
        '{"attempts":0}',
        '{"attempts":51}',
        '{"attempts":1.5}',
        '{"attempts":1,"delays":[]}',
        '{"attempts":1,"delays":[604801]}',
        '{"attempts":1,"exponential":{"base":0,"factor":2,"cap":1}}',
        '{"attempts":1,"exponential":{"base":1,"factor":2}}',
        '{"attempts":1,"delays":[1],"exponential":{"base":1,"factor":2,"cap":1}}',
        '{"attempts":1,"jitter":1.1}',
        '{"attempts":1,"timeout":0.05}',
        '{"attempts":1,"timeout":61}',
        '{"attempts":1,"acknowledge":[]}',
        '{"attempts":1,"acknowledge":[199]}',
        '{"attempts":1,"acknowledge":[200,410]}',
        '{"attempts":1,"acknowledge":"3xx"}',
        '{"attempts":1,"maxAge":0}',
        '{"attempts":1,"maxAge":2592001}',
        '{"attempts":1,"delays":null}',
        '{"attempts":1,"unknown":1}',
    ],
)
def test_a_policy_outside_its_limits_is_refused(text: str) -> None:
    """Every bound of the policy object holds."""
    with pytest.raises((ApiError, msgspec.ValidationError)):
        policies.text(msgspec.json.decode(text, type=PolicyShape))


@pytest.mark.parametrize(
    "status",
    [
        "completed",
        "COMPLETED",
        "Failed",
        "cancelled",
        "CANCELED",
        "timeout",
        "TIMED_OUT",
        "timed-out",
    ],
)
def test_an_end_is_known_however_the_platform_writes_it(status: str) -> None:
    """D12: terminal statuses, in the founding platforms' spellings."""
    assert identity.terminal(status)
    assert not identity.terminal("IN_PROGRESS")
    assert identity.terminal(None)


def test_progress_may_repeat_and_an_end_may_not() -> None:
    """D12: only a non-terminal status adds the payload to the key."""

    def key(status: str | None, payload: bytes) -> bytes:
        return identity.natural_key("t", "j", status, "ds", payload)

    assert key("completed", b"1") == key("completed", b"2")
    assert key(None, b"1") == key(None, b"2")
    assert key("running", b"1") != key("running", b"2")
    assert key("completed", b"1") != key("failed", b"1")


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=4),
        min_size=2,
        max_size=2,
    )
)
def test_keys_of_different_tenants_never_meet(parts: list[str]) -> None:
    """I9: the tenant is part of the digest, and no two lists of parts read the same."""
    tenant, key = parts
    assert identity.explicit_key(tenant, key) != identity.explicit_key(tenant + "x", key)
    if key:
        assert identity.explicit_key(tenant, key) != identity.explicit_key(tenant + key, "")


def test_a_cursor_leads_back_to_its_place_in_its_own_listing() -> None:
    """A cursor is good for the listing it came from, and for no other."""
    cursor = paging.cursor_after("cb_00ff", "mine")
    assert cursor is not None
    assert paging.after(cursor, "mine") == "cb_00ff"
    with pytest.raises(ApiError):
        paging.after(cursor, "another")


@given(st.text(max_size=40) | st.text(string.ascii_letters + "-_=", max_size=40))
def test_a_made_up_cursor_is_refused(text: str) -> None:
    """422, whatever the text."""
    with pytest.raises(ApiError) as caught:
        paging.after(text, "mine")
    assert caught.value.status == 422


def test_a_cursor_with_one_changed_character_is_refused() -> None:
    """Tampering shows."""
    cursor = paging.cursor_after("cb_00ff00ff", "mine") or ""
    for at in range(len(cursor)):
        changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        with pytest.raises(ApiError):
            paging.after(changed, "mine")


@pytest.mark.parametrize(
    "text", ["0", "501", "-1", "1.5", "", "x", "٣", "1e2", "0x1", "+5", "9" * 99]
)
def test_a_limit_outside_1_to_500_is_refused(text: str) -> None:
    """422 for what is not a whole number within the bounds."""
    with pytest.raises(ApiError):
        paging.limit_of(text)
    assert [paging.limit_of(good) for good in (None, "1", "500")] == [50, 1, 500]


@given(st.binary(max_size=60))
def test_any_query_string_is_parameters_or_a_refusal(raw: bytes) -> None:
    """Nothing else comes out of a query string."""
    with contextlib.suppress(ApiError):
        assert all(isinstance(value, str) for value in query.parse(raw).values())


@pytest.mark.parametrize("raw", [b"a=1&a=2", b"a=%ff", b"a=\xff", b"&".join([b"a=1"] * 65)])
def test_a_query_that_says_two_things_or_is_no_text_is_refused(raw: bytes) -> None:
    """Repeated parameters, bad UTF-8 and floods are 422."""
    with pytest.raises(ApiError):
        query.parse(raw)
