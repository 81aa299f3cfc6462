"""What no key of ours opens is our own lack (D21): it is handed back unspent, never sent unsigned,
and told; everybody else's goes out."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from dispatcher.engine import resealer
from dispatcher.engine.faults import Faults
from dispatcher.metrics import Metrics
from dispatcher.outcome import Outcome
from dispatcher.settings import Settings
from dispatcher.signing import SecretCache, Secrets
from dispatcher.store.errors import StoreFull
from dispatcher.store.reencrypt import Reencryption
from dispatcher.store.store import Store
from dispatcher.values import Delivery, SigningSecret, Unopened
from receiver.base.lack import OwnLack
from tests.dispatcher.engine.rig import Rig, Script, rigged
from tests.dispatcher.store.builders import T0, TENANT, raises, secret
from tests.theft import KEY, NEXT_KEY

LACK = Unopened(lack="keys", message="secrets/value/x is sealed with the key k1")
UNOPENED = replace(secret(), value="", unopened=LACK)


async def attempted(rig: Rig, one: str) -> None:
    async def there() -> bool:
        return bool(await rig.store.attempts(TENANT, one))

    await rig.until(there)


async def test_headers_that_do_not_open_keep_their_delivery_and_no_other(tmp_path: Path) -> None:
    """I2: in the same claim as others, it alone is handed back, due again in a minute or two."""

    async def read(tenant: str) -> Sequence[SigningSecret]:
        return [secret(tenant)]

    script, known = Script(), SecretCache(read)
    async with rigged(tmp_path, started=False, encryption_keys=KEY) as rig:
        sealed = await rig.submit(headers=(("X-Own", "value"),))
    async with rigged(tmp_path, send=script.send, secrets=known, encryption_keys=NEXT_KEY) as rig:
        other = await rig.submit("job-2")
        await attempted(rig, sealed.id)
        shown = await rig.get(sealed.id)
        assert (shown.state, shown.attempts, shown.tries) == ("pending", 1, 0)
        assert shown.due_ms is not None
        assert [one.outcome for one in await rig.store.attempts(TENANT, sealed.id)] == [
            "interrupted"
        ]
        missing = rig.engine.missing_key()
        assert missing is not None
        assert "the key k1" in missing
        assert "value" not in missing
        assert 'dispatcher_own_faults_total{lack="keys"} 1.0' in rig.metrics.render().decode()
        await rig.until(lambda: _is(rig, other.id, "delivered"))
        assert [one.id for one in script.sent] == [other.id]


async def _is(rig: Rig, one: str, state: str) -> bool:
    return (await rig.get(one)).state == state


async def test_a_secret_that_does_not_open_signs_nothing(tmp_path: Path) -> None:
    """At once: no waiting opens it. Nor goes out what only one of two secrets could sign."""

    async def read(_tenant: str) -> Sequence[SigningSecret]:
        return [UNOPENED]

    async def send(_delivery: Delivery, _secrets: Secrets) -> Outcome:
        raise AssertionError("it was sent")

    async with rigged(tmp_path, send=send, secrets=SecretCache(read)) as rig:
        one = await rig.submit()
        await attempted(rig, one.id)
        shown = await rig.get(one.id)
        assert (shown.state, shown.tries) == ("pending", 0)
        assert rig.engine.missing_key() == LACK.message


async def test_both_secrets_of_a_rotation_sign_or_none() -> None:
    new = secret(now_ms=T0 + 1)
    old = replace(UNOPENED, expires_ms=T0 + 1_000)

    async def read(_tenant: str) -> Sequence[SigningSecret]:
        return [new, old]

    cache = SecretCache(read)
    error = await raises(OwnLack, cache.for_delivery(TENANT, "ds_1", T0))
    assert isinstance(error, OwnLack)
    assert error.what == "keys"
    assert await cache.for_delivery(TENANT, "ds_1", T0 + 1_000) == Secrets(current=new.value)


async def test_another_process_with_a_newer_key_stops_nobody_who_has_read_before() -> None:
    """A value never changes: one that was read goes on signing while its sealed form cannot be
    opened here."""
    known = secret()
    answers = [known, replace(known, value="", unopened=LACK)]

    async def read(_tenant: str) -> Sequence[SigningSecret]:
        return [answers.pop(0) if len(answers) > 1 else answers[0]]

    cache = SecretCache(read)
    for _ in range(3):
        assert await cache.for_delivery(TENANT, "ds_1", T0) == Secrets(current=known.value)
        cache.forget_all()
    cache.forget(TENANT)
    await raises(OwnLack, cache.for_delivery(TENANT, "ds_1", T0))


def test_a_missing_key_is_told_until_it_was_tried_again() -> None:
    faults = Faults(Metrics())

    def met(lack: str, at_ms: int) -> int:
        outcome = Outcome(
            kind="interrupted", started_ms=0, duration_ms=0, error="x", detail="why", lack=lack
        )
        return faults.pause_ms(outcome.lack, outcome.detail, chance=1.0, monotonic_ms=at_ms)

    assert met("damage", 0) == 120_000
    assert faults.missing_key(0) is None
    assert met("keys", 0) == 120_000
    assert faults.missing_key(150_000) == "why"
    assert faults.missing_key(150_001) is None
    assert faults.until_ms == 0  # others' deliveries go on


# --- sealing again ---


class Shelf:
    """A store of which all is sealed again in two slices, and whose file is as it is told."""

    is_sealing = True
    shared = False

    def __init__(self, *erased: object) -> None:
        self.erased = list(erased)
        self.asked: list[bool] = []
        self.at = Reencryption(
            kid="k1",
            state="running",
            place="a",
            reached="",
            looked=0,
            sealed=0,
            unopened=0,
            clean=False,
            started_ms=0,
            finished_ms=None,
        )
        self.done = asyncio.Event()

    async def reencryption(self) -> Reencryption:
        return self.at

    async def runs_reencryption(self) -> bool:
        return True

    async def overwrite_deleted(self) -> None: ...

    async def reencrypt(self, at: Reencryption, *, now_ms: int) -> Reencryption:
        return replace(at, place="b" if at.place == "a" else "")

    async def shrink(self, *, pages: int) -> int:
        return 0

    async def erase_deleted(self, *, rewrite: bool) -> object:
        self.asked.append(rewrite)
        found = self.erased.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def finish_reencryption(
        self, at: Reencryption, *, clean: bool, now_ms: int
    ) -> Reencryption:
        self.at = replace(at, state="done", clean=clean)
        self.done.set()
        return self.at


@pytest.mark.parametrize(
    ("erased", "asked", "clean"),
    [
        (("clean",), [True], True),
        (("large",), [True], False),
        (("elsewhere",), [True], False),
        (("busy", "busy", "clean"), [True, False, False], True),
        ((StoreFull("no room"),), [True], False),
    ],
)
async def test_the_file_is_written_anew_once_and_what_came_of_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, erased: tuple[object, ...], asked: list[bool], clean: bool
) -> None:
    """While somebody reads an older state of it the log is emptied later; where there is no room,
    the rest is done all the same."""
    monkeypatch.setattr(resealer, "_ERASE_AGAIN_S", 0.0)
    shelf = Shelf(*erased)
    running = resealer.Resealer(Settings(), cast(Store, shelf))
    running.start()
    async with asyncio.timeout(10):
        await shelf.done.wait()
    await running.stop()
    assert (shelf.asked, shelf.at.clean, shelf.at.state) == (asked, clean, "done")
