"""What is secret of jobs and endpoints: sealed at rest, sealed again with another key, and no trap
where the key is gone."""

from pathlib import Path

from dispatcher.access import new_secret
from tests.dispatcher.store.builders import FACTORIES, LOOKERS, T0, TENANT
from tests.dispatcher.store.conftest import Build
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome, target
from tests.dispatcher.store.test_sealing import counted, reencrypted
from tests.theft import KEY, NEXT_KEY

SECRET = "of-the-customer"


async def filled(jobs: Jobs) -> str:
    """An endpoint with a header and a signing secret, a job that was run, and one that waits;
    returns the latter."""
    await jobs.endpoint(headers=(("X-Token", SECRET),), concurrency=1)
    await jobs.store.ensure_endpoint_secret(new_secret("", T0, endpoint=EP, value=SECRET))
    await jobs.submit(b"input " + SECRET.encode(), callback=target())
    await jobs.settle(await jobs.one(), outcome(body=b"output " + SECRET.encode()))
    callback = target(headers=(("X-Callback", SECRET),))
    waiting = await jobs.submit(
        b"input " + SECRET.encode(), headers=(("X-Trace", SECRET),), callback=callback
    )
    return waiting.id


async def all_is_there(jobs: Jobs) -> None:
    assert (await jobs.store.endpoint(EP)).rules.headers == (("X-Token", SECRET),)
    assert [one.value for one in await jobs.store.endpoint_secrets(EP)] == [SECRET]
    claimed = await jobs.one()
    assert claimed.unopened is None
    assert claimed.body == b"input " + SECRET.encode()
    assert claimed.options.headers == (("X-Trace", SECRET),)
    assert claimed.options.callback is not None
    assert claimed.options.callback.headers == (("X-Callback", SECRET),)
    await jobs.store.release([claimed], now_ms=jobs.world.now_ms)


def everything(store_name: str, folder: Path) -> str:
    look = LOOKERS[store_name]
    found = [
        *look(folder, "SELECT rules FROM endpoints"),
        *look(folder, "SELECT value FROM endpoint_secrets"),
        *look(folder, "SELECT options FROM jobs"),
        *[(bytes(row[0]),) for row in look(folder, "SELECT body FROM inputs")],
        *[(bytes(row[0]),) for row in look(folder, "SELECT body FROM outputs")],
    ]
    return str(found)


async def test_all_that_is_secret_is_sealed(build: Build, store_name: str, tmp_path: Path) -> None:
    """Inputs and outputs as callbacks' payloads are; headers wherever there are keys."""
    jobs = Jobs(await build(encryption_keys=KEY, encrypt_payloads="on"))
    await filled(jobs)
    found = everything(store_name, tmp_path / "0")
    assert SECRET not in found
    assert found.count("enc1:k1:") >= 5
    await all_is_there(jobs)


async def test_what_is_stored_is_sealed_again(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    """With the key that seals now: then the one before can go."""
    world = await build(encryption_keys=KEY, encrypt_payloads="on")
    jobs = Jobs(world)
    await filled(jobs)
    folder = tmp_path / "0"
    for keys in (f"{NEXT_KEY},{KEY}", NEXT_KEY):
        changes = {"encryption_keys": keys, "encrypt_payloads": "on"}
        world.make = lambda changes=changes: FACTORIES[store_name](folder, changes)  # type: ignore[misc]
        await world.reopen()
        done = await reencrypted(world)
        assert done.unopened == 0
        found = everything(store_name, folder)
        assert "enc1:k1:" not in found
        assert SECRET not in found
        await all_is_there(jobs)
    assert {one.what for one in (await counted(world)).values()} >= {
        "endpoints' headers",
        "endpoints' signing secrets",
        "jobs' headers",
        "payloads",
    }


async def test_a_job_that_cannot_be_opened_says_so(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    """Nothing goes out, and it stops no other."""
    world = await build(encryption_keys=KEY, encrypt_payloads="on")
    jobs = Jobs(world)
    await jobs.endpoint()
    first = await jobs.submit(b"a", headers=(("X-Trace", SECRET),))
    changes = {"encryption_keys": NEXT_KEY, "encrypt_payloads": "on"}
    world.make = lambda: FACTORIES[store_name](tmp_path / "0", changes)
    await world.reopen()
    second = await jobs.submit(b"b")
    claimed = await jobs.claim()
    assert [one.id for one in claimed] == [first.id, second.id]
    assert claimed[0].unopened is not None
    assert claimed[0].body == b""
    assert claimed[1].body == b"b"
    assert claimed[1].tenant == TENANT
