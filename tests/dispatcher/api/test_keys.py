"""What API keys are bound to: their end, networks, destinations and rate; their rotation; and that
none makes one that may do more than itself."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from receiver.base.clock import iso, now_ms
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject

HOUR_S = 3_600
URL = "http://127.0.0.1:9/hook"


async def made(api: httpx.AsyncClient, **fields: object) -> dict[str, Any]:
    """A new key, as it is answered."""
    answer = await api.post("/v1/keys", json={"scopes": ["read"], **fields})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def listed(api: httpx.AsyncClient, id: str) -> dict[str, Any]:
    keys = (await api.get("/v1/keys")).json()["data"]
    (found,) = [one for one in keys if one["id"] == id]
    return dict(found)


def stored(directory: Path) -> bytes:
    """All that is in the database's files."""
    return b"".join(file.read_bytes() for file in directory.iterdir())


def asking_from(service: Service, address: str, key: str, **headers: str) -> httpx.AsyncClient:
    """A client whose connections come from this address."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(service.api, client=(address, 40_000)),
        base_url="http://dispatcher.test",
        headers={"Authorization": f"Bearer {key}", **headers},
    )


def set_clock(service: Service, clock: Callable[[], int]) -> None:
    """Have keys be judged by another clock."""
    service.access._clock = clock


# --- the text ---


async def test_a_mistyped_key_is_told_so(service: Service, api: httpx.AsyncClient) -> None:
    """401 in words of its own, that do not repeat the key; without asking any database."""
    key = await make_key(api, scopes=["read"])
    letter = "a" if key[10] != "a" else "b"
    for wrong in (key[:10] + letter + key[11:], key[:-1], key + "x", "pbk_"):
        async with connect(service, wrong) as client:
            answer = await client.get("/v1/callbacks")
            reject(answer, 401, "UNAUTHORIZED")
            assert "mistyped" in answer.json()["message"]
            assert wrong not in answer.text or wrong == "pbk_"
    async with connect(service, "pbk_" + "x" * 43) as client:
        answer = await client.get("/v1/callbacks")
        assert "mistyped" not in answer.json()["message"]


async def test_the_key_of_the_settings_may_look_like_one_that_is_mistyped(
    settings: Settings,
) -> None:
    chosen = replace(settings, admin_key="pbk_chosen-by-somebody")
    async with Service(chosen) as service, connect(service, "pbk_chosen-by-somebody") as api:
        assert (await api.get("/v1/keys")).status_code == 200


async def test_keys_made_before_stay_valid(service: Service, api: httpx.AsyncClient) -> None:
    """They had no checksum: any text that hashes to a stored digest is a key."""
    from dispatcher.access import _digest

    id = (await made(api))["id"]
    earlier = "pbk_" + "Ab-_" * 10 + "xyz"
    key = replace(service.access._keys[id], id="key_0", digest=_digest(earlier))
    await service.store.add_key(key)
    await service.access.reload()
    async with connect(service, earlier) as client:
        assert (await client.get("/v1/callbacks")).status_code == 200


# --- the end ---


async def test_a_key_ends(service: Service, api: httpx.AsyncClient) -> None:
    """401 that says so from the very moment on, without anybody telling anybody."""
    begin_ms = now_ms()
    end = iso(begin_ms + HOUR_S * 1000)
    key = await made(api, expiresAt=end)
    assert key["expiresAt"] == (await listed(api, key["id"]))["expiresAt"] == end
    async with connect(service, key["key"]) as client:
        set_clock(service, lambda: begin_ms + HOUR_S * 1000 - 1)
        assert (await client.get("/v1/callbacks")).status_code == 200
        set_clock(service, lambda: begin_ms + HOUR_S * 1000)
        answer = await client.get("/v1/callbacks")
        reject(answer, 401, "UNAUTHORIZED")
        assert answer.json()["message"] == f"the API key expired at {end}"
    assert (await listed(api, key["id"]))["expiresAt"] == end


@pytest.mark.parametrize(
    "wrong",
    ["2020-01-01T00:00:00Z", "2500-01-01T00:00:00Z", "tomorrow", "", 0, -1, 1e12, True, [1]],
)
async def test_an_end_that_cannot_be_is_refused(api: httpx.AsyncClient, wrong: object) -> None:
    body = {"scopes": ["read"], "expiresAt": wrong}
    details = reject(await api.post("/v1/keys", json=body), 422, "VALIDATION_ERROR")
    assert details["field"] == "expiresAt"


async def test_only_a_key_that_has_not_ended_keeps_a_start_from_making_one(
    settings: Settings,
) -> None:
    """Else nobody could get in any more."""
    unset = replace(settings, admin_key=None)
    async with Service(settings) as service, connect(service, ADMIN_KEY) as api:
        admin = await made(api, scopes=["admin"], expiresAt=HOUR_S)
    async with Service(unset) as service:
        assert service.new_key is None
        assert await service.access.bootstrap() is None
        set_clock(service, lambda: now_ms() + 2 * HOUR_S * 1000)
        assert await service.access.bootstrap() not in (None, admin["key"])
        assert await service.access.bootstrap() is None


# --- where it may be used from ---


async def test_a_key_is_good_from_its_networks_alone(
    service: Service, api: httpx.AsyncClient
) -> None:
    """403 with the address that was seen; whatever a stranger's header says."""
    key = await made(api, networks=["203.0.113.0/24", "2001:db8::/32", "::ffff:192.0.2.0/120"])
    assert key["networks"] == ["203.0.113.0/24", "2001:db8::/32", "192.0.2.0/24"]
    for address in ("203.0.113.9", "2001:db8::7", "::ffff:203.0.113.9", "192.0.2.4"):
        async with asking_from(service, address, key["key"]) as client:
            assert (await client.get("/v1/callbacks")).status_code == 200, address
    spoofed = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    for address in ("203.0.114.9", "2001:db9::7", "::ffff:203.0.114.9"):
        async with asking_from(service, address, key["key"], **spoofed) as client:
            answer = await client.get("/v1/callbacks")
            details = reject(answer, 403, "FORBIDDEN")
            assert details == {"address": address.removeprefix("::ffff:")}
            assert str(details["address"]) in answer.json()["message"]
    async with connect(service, ADMIN_KEY) as client:
        assert (await client.get("/v1/callbacks")).status_code == 200


async def test_behind_a_trusted_proxy_the_address_is_whom_it_asks_for(settings: Settings) -> None:
    trusting = replace(settings, trusted_proxies=(ip_network("10.0.0.0/8"),))
    async with Service(trusting) as service:
        async with connect(service, ADMIN_KEY) as api:
            key = (await made(api, networks=["203.0.113.9"]))["key"]
        for peer, forwarded, status in (
            ("10.0.0.1", "203.0.113.9", 200),
            ("10.0.0.1", "203.0.113.9, 10.0.0.2", 200),
            ("10.0.0.1", "203.0.113.9, 198.51.100.1", 403),
            ("10.0.0.1", "198.51.100.1, 203.0.113.9", 200),
            ("10.0.0.1", "203.0.113.9, unknown", 403),
            ("11.0.0.1", "203.0.113.9", 403),
        ):
            forwards = {"X-Forwarded-For": forwarded}
            async with asking_from(service, peer, key, **forwards) as client:
                assert (await client.get("/v1/callbacks")).status_code == status, forwarded


@pytest.mark.parametrize(
    "wrong", ["", "10.0.0.1/8", "nonsense", "10.0.0.0/33", "10.0.0.0 - 10.0.0.9", "::1%lo"]
)
async def test_a_network_that_cannot_be_is_refused(api: httpx.AsyncClient, wrong: str) -> None:
    body = {"scopes": ["read"], "networks": ["10.0.0.0/8", wrong]}
    details = reject(await api.post("/v1/keys", json=body), 422, "VALIDATION_ERROR")
    assert details["field"] == "networks[1]"


# --- where it may submit to ---


async def test_a_key_submits_to_its_destinations_alone(
    service: Service, api: httpx.AsyncClient, parked: str
) -> None:
    """Registered names and servers, whichever way a submit comes; what it reads is all there is."""
    await api.post("/v1/destinations", json={"name": "other", "url": URL})
    key = await made(
        api, scopes=["submit", "read"], destinations=[parked, "HTTP://127.0.0.1:9/", "https://a.b"]
    )
    assert key["destinations"] == ["http://127.0.0.1:9", "https://a.b:443", parked]
    async with connect(service, key["key"]) as client:

        async def submit(**target: str) -> httpx.Response:
            body = {"jobId": "j", "payload": str(target), **target}
            return await client.post("/v1/callbacks", json=body)

        for target in ({"destination": parked}, {"callbackUrl": URL}):
            assert (await submit(**target)).status_code == 202
        for target in ({"destination": "other"}, {"callbackUrl": "http://127.0.0.1:10/hook"},
                       {"callbackUrl": "http://127.0.0.1:9@127.0.0.1:10/"}):  # fmt: skip
            answer = await submit(**target)
            reject(answer, 403, "FORBIDDEN")
            assert "may not submit to" in answer.json()["message"]
        reject(await submit(), 422, "VALIDATION_ERROR")
        raw = await client.post("/v1/callbacks/raw?jobId=r&destination=other", content=b"x")
        reject(raw, 403, "FORBIDDEN")
        lines = b"".join(
            b'{"jobId":"%b","destination":"%b","payload":1}\n' % (name, name)
            for name in (parked.encode(), b"other")
        )
        answer = await client.post(
            "/v1/callbacks/batch",
            content=lines,
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert re.findall(r'"(?:error|duplicate)":[^,]*', answer.text) == [
            '"duplicate":false',
            '"error":"FORBIDDEN"',
        ]
        assert len((await client.get("/v1/destinations")).json()["data"]) == 3
    async with connect(service, ADMIN_KEY) as client:
        body = {"jobId": "j2", "payload": 1, "destination": "other"}
        assert (await client.post("/v1/callbacks", json=body)).status_code == 202


@pytest.mark.parametrize(
    "wrong",
    ["", "a b", "-x", "ftp://host", "https://", "https://host/path", "https://host?x",
     "https://user@host", "https://host:port", "https://host:65536", "x" * 65, "://"],
)  # fmt: skip
async def test_a_destination_that_cannot_be_is_refused(api: httpx.AsyncClient, wrong: str) -> None:
    body = {"scopes": ["submit"], "destinations": ["billing", wrong]}
    details = reject(await api.post("/v1/keys", json=body), 422, "VALIDATION_ERROR")
    assert details["field"] == "destinations[1]"


async def test_what_a_key_is_bound_to_is_bounded(api: httpx.AsyncClient) -> None:
    """I7."""
    for field, values in (
        ("networks", [f"10.0.0.{n}" for n in range(33)]),
        ("destinations", [f"name-{n}" for n in range(65)]),
        ("ratePerSecond", 0),
        ("ratePerSecond", 1_000_001),
    ):
        body = {"scopes": ["submit"], field: values}
        assert (
            reject(await api.post("/v1/keys", json=body), 422, "VALIDATION_ERROR")["field"] == field
        )


# --- how fast ---


async def test_a_key_asks_no_faster_than_it_may(service: Service, api: httpx.AsyncClient) -> None:
    """429 with Retry-After, and on every answer the standard's two headers; other keys have their
    own rates, or none and so no headers."""
    clock = [1_000_000]
    service.access._monotonic_ms = lambda: clock[0]
    key, other = [(await made(api, ratePerSecond=3))["key"] for _ in range(2)]
    async with connect(service, key) as client, connect(service, other) as beside:
        for left in (2, 1, 0):
            answer = await client.get("/v1/callbacks")
            assert answer.status_code == 200
            assert answer.headers["RateLimit-Policy"] == '"key";q=3;w=1'
            assert answer.headers["RateLimit"] == f'"key";r={left};t=1'
        answer = await client.get("/v1/callbacks/cb_1")
        details = reject(answer, 429, "RATE_LIMITED")
        assert (details["ratePerSecond"], details["retryAfter"]) == (3, 1)
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["RateLimit"] == '"key";r=0;t=1'
        assert (await beside.get("/v1/callbacks")).status_code == 200
        clock[0] += 334
        missing = await client.get("/v1/callbacks/cb_1")
        reject(missing, 404, "NOT_FOUND")
        assert missing.headers["RateLimit"] == '"key";r=0;t=1'
        clock[0] += 3_000
        assert (await client.get("/v1/callbacks")).headers["RateLimit"] == '"key";r=2;t=1'
    assert "RateLimit" not in (await api.get("/v1/callbacks")).headers


# --- no more than oneself ---


async def test_no_key_makes_one_that_may_do_more(service: Service, api: httpx.AsyncClient) -> None:
    """Each limit by itself: left out it is the maker's, narrower is taken, wider is 403."""
    end = iso(now_ms() + HOUR_S * 1000)
    own = {"expiresAt": end, "networks": ["127.0.0.0/8"], "destinations": ["a", "b"],
           "ratePerSecond": 500}  # fmt: skip
    admin = await made(api, scopes=["admin", "submit"], **own)
    async with connect(service, admin["key"]) as client:
        plain = await made(client, scopes=["submit"])
        assert {name: plain[name] for name in own} == own
        for field, narrower, wider in (
            ("expiresAt", 60, 2 * HOUR_S),
            ("networks", ["127.0.0.1/32"], ["127.0.0.1/32", "10.0.0.0/8"]),
            ("networks", ["127.0.0.0/9", "127.128.0.0/9"], ["126.0.0.0/7"]),
            ("destinations", ["a"], ["a", "c"]),
            ("ratePerSecond", 1, 501),
        ):
            await made(client, scopes=["submit"], **{field: narrower})
            answer = await client.post("/v1/keys", json={"scopes": ["submit"], field: wider})
            reject(answer, 403, "FORBIDDEN")
            assert field in answer.json()["message"]
        reject(await client.post("/v1/keys", json={"scopes": ["operate"]}), 403, "FORBIDDEN")


async def test_no_key_rotates_one_that_may_do_more(
    service: Service, api: httpx.AsyncClient
) -> None:
    """Whoever rotates is told the text."""
    weak = await made(api, scopes=["admin", "read"], expiresAt=HOUR_S)
    strong = await made(api, scopes=["admin", "read"])
    other = await made(api, scopes=["submit"], expiresAt=60)
    bounded = await made(api, scopes=["read"], expiresAt=60)
    async with connect(service, weak["key"]) as client:
        for key in (strong, other):
            reject(await client.post(f"/v1/keys/{key['id']}/rotate", json={}), 403, "FORBIDDEN")
        path = f"/v1/keys/{bounded['id']}/rotate"
        reject(await client.post(path, json={"expiresAt": 2 * HOUR_S}), 403, "FORBIDDEN")
        assert (await client.post(path, json={})).status_code == 201
        assert (await client.post(f"/v1/keys/{weak['id']}/rotate", json={})).status_code == 201
    async with connect(service, strong["key"]) as client:
        assert (await client.get("/v1/keys")).status_code == 200


# --- rotation ---


async def test_a_rotated_key_is_good_by_both_texts_until_the_overlap_ends(
    service: Service, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    """The same id, the same rights, another text; the one before ends by itself, and says why."""
    begin_ms = now_ms()
    set_clock(service, lambda: begin_ms)
    before = await made(api, scopes=["read", "submit"], label="x", ratePerSecond=1000)
    path = f"/v1/keys/{before['id']}/rotate"
    answer = await api.post(path, json={"overlap": HOUR_S})
    after = answer.json()
    assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
    assert after["key"] != before["key"]
    until = iso(begin_ms + HOUR_S * 1000)
    assert after == {**before, "key": after["key"], "previousExpiresAt": until}
    assert await listed(api, before["id"]) == {
        name: value for name, value in after.items() if name != "key"
    }
    async with connect(service, before["key"]) as old, connect(service, after["key"]) as new:
        set_clock(service, lambda: begin_ms + HOUR_S * 1000 - 1)
        assert (await old.get("/v1/callbacks")).status_code == 200
        assert (await new.get("/v1/callbacks")).status_code == 200
        reject(await api.post(path, json={}), 409, "CONFLICT")
        set_clock(service, lambda: begin_ms + HOUR_S * 1000)
        refused = await old.get("/v1/callbacks")
        reject(refused, 401, "UNAUTHORIZED")
        assert "rotated" in refused.json()["message"]
        assert (await new.get("/v1/callbacks")).status_code == 200
        await service.access.reload()
        reject(await old.get("/v1/callbacks"), 401, "UNAUTHORIZED")
        assert (await api.delete(f"/v1/keys/{before['id']}")).status_code == 204
        reject(await new.get("/v1/callbacks"), 401, "UNAUTHORIZED")
    files = stored(tmp_path)
    assert before["key"].encode() not in files
    assert after["key"].encode() not in files


async def test_a_forced_rotation_ends_the_earlier_overlap_at_once(
    service: Service, api: httpx.AsyncClient
) -> None:
    """And an overlap of nothing ends the text before at once; revoking ends both."""
    first = await made(api)
    path = f"/v1/keys/{first['id']}/rotate"
    rotated = [await api.post(path, json=body) for body in ({}, {"force": True})]
    texts = [first["key"], *(answer.json()["key"] for answer in rotated)]
    statuses = []
    for text in texts:
        async with connect(service, text) as client:
            statuses.append((await client.get("/v1/callbacks")).status_code)
    assert statuses == [401, 200, 200]
    leaked = await api.post(path, json={"force": True, "overlap": 0})
    for text, status in ((texts[2], 401), (leaked.json()["key"], 200)):
        async with connect(service, text) as client:
            assert (await client.get("/v1/callbacks")).status_code == status


async def test_a_rotation_gives_no_text_a_longer_life(
    service: Service, api: httpx.AsyncClient
) -> None:
    """The text before ends when it would have; a new end is the new text's. A key that has ended
    comes back by a rotation, its old text does not."""
    begin_ms = now_ms()
    set_clock(service, lambda: begin_ms)
    key = await made(api, expiresAt=iso(begin_ms + 60_000))
    path = f"/v1/keys/{key['id']}/rotate"
    rotated = (await api.post(path, json={"overlap": HOUR_S, "expiresAt": HOUR_S * 24})).json()
    assert rotated["previousExpiresAt"] == iso(begin_ms + 60_000)
    set_clock(service, lambda: begin_ms + 60_000)
    for text, status in ((key["key"], 401), (rotated["key"], 200)):
        async with connect(service, text) as client:
            assert (await client.get("/v1/callbacks")).status_code == status
    set_clock(service, lambda: begin_ms + 25 * HOUR_S * 1000)
    again = (await api.post(path, json={"expiresAt": 26 * HOUR_S})).json()
    for text, status in ((rotated["key"], 401), (again["key"], 200)):
        async with connect(service, text) as client:
            assert (await client.get("/v1/callbacks")).status_code == status


async def test_the_text_before_makes_keys_that_live_as_long_as_the_keys_own_do(
    service: Service, api: httpx.AsyncClient
) -> None:
    """What ends with the overlap is a text, not what the key may do."""
    admin = await made(api, scopes=["admin", "read"])
    await api.post(f"/v1/keys/{admin['id']}/rotate", json={"overlap": 60})
    async with connect(service, admin["key"]) as client:
        assert "expiresAt" not in await made(client)


async def test_only_keys_that_there_are_can_be_rotated(
    service: Service, api: httpx.AsyncClient
) -> None:
    """I9: another tenant's is as unknown as none; the settings' key is not ours to change."""
    theirs = await made(api, tenant="other")
    admin = await made(api, scopes=["admin", "read"], tenant="acme")
    async with connect(service, admin["key"]) as client:
        for id in (theirs["id"], "key_0", "key_bootstrap"):
            answer = await client.post(f"/v1/keys/{id}/rotate", json={})
            reject(answer, 404, "NOT_FOUND")
            assert answer.json()["message"] == "no such key"
    reject(await api.post("/v1/keys/key_bootstrap/rotate", json={}), 404, "NOT_FOUND")


# --- last uses ---


@pytest.fixture
async def unswept(settings: Settings) -> AsyncIterator[Service]:
    """A service whose keeper takes no step by itself."""
    async with Service(replace(settings, sweep_interval=3_600.0)) as running:
        yield running


async def test_the_last_use_is_listed_of_both_texts(unswept: Service) -> None:
    """Recorded apart from requests; the key of the settings has no record."""
    async with connect(unswept, ADMIN_KEY) as api:
        key = await made(api)
        assert "lastUsedAt" not in await listed(api, key["id"])
        keeper = unswept.key_keeper
        begin_ms = now_ms()
        keeper._clock = lambda: begin_ms
        keeper._monotonic_ms = lambda: 1_000
        async with connect(unswept, key["key"]) as old:
            await old.get("/v1/callbacks")
            await keeper.step()
            assert (await listed(api, key["id"]))["lastUsedAt"] == iso(begin_ms)
            rotated = (await api.post(f"/v1/keys/{key['id']}/rotate", json={})).json()
            keeper._clock = lambda: begin_ms + 70_000
            keeper._monotonic_ms = lambda: 71_000
            async with connect(unswept, rotated["key"]) as new:
                await new.get("/v1/callbacks")
            await keeper.step()
            found = await listed(api, key["id"])
            assert (found["lastUsedAt"], "previousUsedAt" in found) == (
                iso(begin_ms + 70_000),
                False,
            )
            keeper._clock = lambda: begin_ms + 140_000
            keeper._monotonic_ms = lambda: 141_000
            await old.get("/v1/callbacks")
            await keeper.step()
        assert (await listed(api, key["id"]))["previousUsedAt"] == iso(begin_ms + 140_000)


async def test_a_refused_request_is_no_use(service: Service, api: httpx.AsyncClient) -> None:
    key = await made(api, networks=["10.0.0.0/8"])
    service.access.take_used()
    async with connect(service, key["key"]) as client:
        reject(await client.get("/v1/callbacks"), 403, "FORBIDDEN")
    assert key["id"] not in service.access.take_used()
