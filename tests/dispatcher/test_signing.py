"""signing.py: which secrets sign, and that strangers' verifiers accept what they sign (D10)."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as StandardWebhook
from standardwebhooks.webhooks import WebhookVerificationError as StandardError
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError as SvixError

from dispatcher.signing import SecretCache, SecretMissing, Secrets, headers, with_secrets
from dispatcher.store.errors import NotFound, StoreUnavailable
from dispatcher.values import SecretRef, SigningSecret, StoredSecret, Unopened
from receiver import signature
from receiver.base.lack import lack_of
from tests.dispatcher.peers import OK, Received, answers, delivery, listening, sending

VECTORS = json.loads((Path(__file__).parents[1] / "receiver" / "vectors.json").read_text())
BODY = b'{"jobId":"job_1","status":"completed"}'
JOB = signature.Job(id="job.1", status="ended, perhaps", run=2)


def made_up(name: str) -> str:
    return "whsec_" + base64.b64encode(f"test-{name}".ljust(32, "!").encode()).decode()


CURRENT, PREVIOUS = made_up("current"), made_up("previous")


def stored(value: str, **changes: Any) -> SigningSecret:
    fields: dict[str, Any] = {
        "id": f"se_{value[-8:]}",
        "tenant": "acme",
        "destination": None,
        "value": value,
        "created_ms": 0,
        "expires_ms": None,
    }
    return SigningSecret(**fields | changes)


class Vault:
    """The store's one verb, counted; `gate` holds readings back."""

    def __init__(self, *secrets: SigningSecret) -> None:
        self.kept: Sequence[SigningSecret] = secrets
        self.readings = 0
        self.reading = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def secrets(self, tenant: str) -> Sequence[SigningSecret]:
        self.readings += 1
        found = tuple(secret for secret in self.kept if secret.tenant == tenant)
        self.reading.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return found


async def test_the_most_specific_secret_signs() -> None:
    own = made_up("own")
    book = SecretCache(Vault(stored(CURRENT), stored(own, destination="ds_1")).secrets)

    assert await book.for_delivery("acme", "ds_1", 0) == Secrets(current=own)
    assert await book.for_delivery("acme", "ds_2", 0) == Secrets(current=CURRENT)


async def test_a_rotated_out_secret_signs_beside_the_new_one_until_its_overlap_ends() -> None:
    vault = Vault(
        stored(CURRENT, created_ms=10),
        stored(PREVIOUS, created_ms=0, expires_ms=1_000),
        stored(made_up("older"), created_ms=-10, expires_ms=5),
    )
    book = SecretCache(vault.secrets)

    both = Secrets(current=CURRENT, previous=PREVIOUS)
    assert await book.for_delivery("acme", "ds_1", 10) == both
    assert await book.for_delivery("acme", "ds_1", 999) == both
    assert await book.for_delivery("acme", "ds_1", 1_000) == Secrets(current=CURRENT)
    assert vault.readings == 1


async def test_the_order_in_which_the_store_lists_them_does_not_matter() -> None:
    old_first = Vault(stored(PREVIOUS, expires_ms=1_000), stored(CURRENT, created_ms=10))
    found = await SecretCache(old_first.secrets).for_delivery("acme", "ds_1", 20)

    assert found == Secrets(current=CURRENT, previous=PREVIOUS)


async def test_secrets_are_read_once_and_anew_when_forgotten_or_old() -> None:
    vault = Vault(stored(PREVIOUS))
    at_ms = 0
    book = SecretCache(vault.secrets, monotonic_ms=lambda: at_ms)
    found = await asyncio.gather(*(book.for_delivery("acme", f"ds_{n}", 0) for n in range(50)))
    assert set(found) == {Secrets(current=PREVIOUS)}
    assert vault.readings == 1

    vault.kept = (stored(CURRENT),)
    book.forget("other")
    assert (await book.for_delivery("acme", "ds_1", 1)).current == PREVIOUS
    book.forget("acme")
    assert (await book.for_delivery("acme", "ds_1", 2)).current == CURRENT

    vault.kept = (stored(PREVIOUS),)  # rotated by another process
    assert (await book.for_delivery("acme", "ds_1", 60_000)).current == CURRENT
    at_ms = 30_000  # whatever the wall clock says
    assert (await book.for_delivery("acme", "ds_1", 2)).current == PREVIOUS


async def test_a_rotation_during_a_reading_is_not_lost() -> None:
    vault = Vault(stored(PREVIOUS))
    book = SecretCache(vault.secrets)
    vault.gate.clear()
    reading = asyncio.create_task(book.for_delivery("acme", "ds_1", 0))
    await vault.reading.wait()
    vault.kept = (stored(CURRENT),)
    book.forget("acme")
    vault.gate.set()

    assert (await reading).current == PREVIOUS
    assert (await book.for_delivery("acme", "ds_1", 0)).current == CURRENT


async def test_tenants_do_not_share_secrets_and_one_without_any_is_not_found() -> None:
    book = SecretCache(Vault(stored(CURRENT), stored(PREVIOUS, tenant="other")).secrets)

    assert (await book.for_delivery("other", "ds_1", 0)).current == PREVIOUS
    with pytest.raises(NotFound, match="nobody"):
        await book.for_delivery("nobody", "ds_1", 0)


async def test_a_reading_that_hangs_keeps_no_other_tenant_waiting() -> None:
    """I6: no lock is shared by tenants."""
    vault = Vault(stored(CURRENT), stored(PREVIOUS, tenant="other"))
    book = SecretCache(vault.secrets)
    vault.gate.clear()
    hanging = asyncio.create_task(book.for_delivery("acme", "ds_1", 0))
    await vault.reading.wait()
    vault.reading.clear()
    other = asyncio.create_task(book.for_delivery("other", "ds_1", 0))
    async with asyncio.timeout(10):
        await vault.reading.wait()  # it reads, and does not wait to read
    vault.gate.set()

    assert (await other).current == PREVIOUS
    assert (await hanging).current == CURRENT


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("forgotten", [False, True])
async def test_what_was_read_before_signs_while_it_cannot_be_read_again(
    hangs: bool, forgotten: bool
) -> None:
    """I2: whatever the store does, for as long as it does; also when another process has changed
    something of somebody's. Then the new ones sign."""
    vault = Vault(stored(PREVIOUS))
    at_ms = 0
    book = SecretCache(vault.secrets, monotonic_ms=lambda: at_ms)
    await book.for_delivery("acme", "ds_1", 0)
    vault.kept = (stored(CURRENT),)
    if hangs:
        vault.gate.clear()
    else:
        vault.error = StoreUnavailable("down")
    if forgotten:
        book.forget_all()
    for minutes in (1, 10, 60):
        at_ms = minutes * 60_000
        assert (await book.for_delivery("acme", "ds_1", 0)).current == PREVIOUS
    readings = vault.readings
    for _ in range(20):  # the same second: nobody waits, and nothing is read
        assert (await book.for_delivery("acme", "ds_1", 0)).current == PREVIOUS
    assert vault.readings == readings

    vault.error = None
    vault.gate.set()
    at_ms += 1_000
    found = {(await book.for_delivery("acme", "ds_1", 0)).current for _ in range(2)}
    assert found <= {PREVIOUS, CURRENT}  # a reading that had hung brings what it found then
    at_ms += 30_000
    assert (await book.for_delivery("acme", "ds_1", 0)).current == CURRENT


async def test_a_tenants_own_rotation_is_never_signed_past() -> None:
    """D10: what is known to be replaced signs nothing, also where the new one cannot be read."""
    vault = Vault(stored(PREVIOUS))
    book = SecretCache(vault.secrets)
    await book.for_delivery("acme", "ds_1", 0)
    book.forget("acme")
    vault.error = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await book.for_delivery("acme", "ds_1", 0)


async def test_a_store_that_is_down_is_asked_again() -> None:
    vault = Vault(stored(CURRENT))
    vault.error = StoreUnavailable("down")
    book = SecretCache(vault.secrets)
    with pytest.raises(StoreUnavailable):
        await book.for_delivery("acme", "ds_1", 0)
    vault.error = None

    assert (await book.for_delivery("acme", "ds_1", 0)).current == CURRENT


def test_i8_secrets_are_not_shown() -> None:
    assert "whsec_" not in repr(Secrets(current=CURRENT, previous=PREVIOUS))


@pytest.mark.parametrize("vector", VECTORS["sha256"])
def test_the_founding_scheme_equals_the_published_vectors(vector: dict[str, str]) -> None:
    made = headers(
        message_id="cb_1",
        body=vector["body"].encode(),
        secrets=Secrets(current=vector["secret"]),
        job=JOB,
        now_s=0,
    )
    assert dict(made)["X-Webhook-Signature"] == vector["signature"]


@pytest.mark.parametrize("vector", VECTORS["standard_webhooks_v1"])
def test_the_standard_scheme_equals_the_published_vectors(vector: dict[str, Any]) -> None:
    made = headers(
        message_id=vector["id"],
        body=vector["body"].encode(),
        secrets=Secrets(current=vector["secret"]),
        job=JOB,
        now_s=vector["timestamp"],
    )
    assert dict(made)["webhook-id"] == vector["id"]
    assert dict(made)["webhook-timestamp"] == str(vector["timestamp"])
    assert dict(made)["webhook-signature"].split(" v1j,")[0] == vector["signature"]


def test_during_a_rotation_both_secrets_sign_the_new_one_first() -> None:
    made = dict(
        headers(
            message_id="cb_1",
            body=BODY,
            secrets=Secrets(current=CURRENT, previous=PREVIOUS),
            job=JOB,
            now_s=1_700_000_000,
            sha256_header="X-Acme",
        )
    )
    assert made == signature.signed_headers(
        BODY,
        (CURRENT, PREVIOUS),
        message_id="cb_1",
        timestamp_s=1_700_000_000,
        sha256_header="X-Acme",
        job=JOB,
    )
    assert made["X-Acme"] == signature.sign_sha256(CURRENT, BODY)
    assert made["X-Acme-Previous"] == signature.sign_sha256(PREVIOUS, BODY)


@pytest.mark.parametrize(
    ("secrets", "names"),
    [
        (Secrets(current="plain text, no base64!"), ["X-Webhook-Signature"]),
        (
            Secrets(current=CURRENT, previous="plain text, no base64!"),
            ["X-Webhook-Signature", "X-Webhook-Signature-Previous",
             "X-Postback-Job-Id", "X-Postback-Job-Status", "X-Postback-Job-Run",
             "webhook-id", "webhook-timestamp", "webhook-signature"],
        ),
    ],
    ids=["alone", "as-previous"],
)  # fmt: skip
def test_a_plain_text_secret_serves_the_founding_scheme_only(
    secrets: Secrets, names: list[str]
) -> None:
    """And our own receiver accepts what is then sent."""
    made = headers(message_id="cb_1", body=BODY, secrets=secrets, job=JOB, now_s=0)

    assert [name for name, _ in made] == names
    assert signature.verify(BODY, made, secrets.current, now_s=0)


def test_an_id_that_cannot_be_signed_is_a_programmer_error() -> None:
    with pytest.raises(ValueError, match="message id"):
        headers(message_id="cb.1", body=BODY, secrets=Secrets(current=CURRENT), job=JOB, now_s=0)


# The founding document's verifier, verbatim.
# fmt: off
def verify_webhook(payload, signature, secret):  # type: ignore[no-untyped-def]  # verbatim
    expected = hmac.new(
        secret.encode('utf-8'),
        payload.encode('utf-8'),
        hashlib.sha256
    ).hexdigest()
    return hmac.compare_digest(f"sha256={expected}", signature)
# fmt: on
founding_verifier: Callable[[str, str, str], bool] = verify_webhook


async def captured(secrets: Secrets, **changes: Any) -> Received:
    """A delivery as it arrived on a real socket."""
    async with listening(answers(OK)) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url, body=BODY, **changes), secrets)
        assert outcome.error_code == "http_200"
    return peer.received[0]


JUDGES: list[tuple[Any, type[Exception]]] = [
    (StandardWebhook, StandardError),
    (SvixWebhook, SvixError),
]


@pytest.mark.parametrize("secrets", [
    Secrets(current=CURRENT), Secrets(current=CURRENT, previous=PREVIOUS),
], ids=["ordinary", "rotation"])  # fmt: skip
async def test_captured_deliveries_are_accepted_by_the_founding_verifier_and_both_libraries(
    secrets: Secrets,
) -> None:
    request = await captured(secrets)
    sent = request.as_dict

    assert founding_verifier(request.body.decode(), sent["x-webhook-signature"], CURRENT)
    for judge, _ in JUDGES:
        assert judge(CURRENT).verify(request.body, sent) is not False
    assert signature.verify(request.body, sent, CURRENT, now_s=time.time()).message_id
    if secrets.previous is not None:
        previous = sent["x-webhook-signature-previous"]
        assert founding_verifier(request.body.decode(), previous, PREVIOUS)
        for judge, _ in JUDGES:
            assert judge(PREVIOUS).verify(request.body, sent) is not False


async def test_one_changed_byte_of_the_body_makes_all_three_refuse() -> None:
    request = await captured(Secrets(current=CURRENT))
    sent = request.as_dict
    for position in range(len(request.body)):
        changed = bytearray(request.body)
        changed[position] ^= 1
        body = bytes(changed)
        assert not founding_verifier(body.decode(), sent["x-webhook-signature"], CURRENT)
        for judge, error in JUDGES:
            with pytest.raises(error):
                judge(CURRENT).verify(body, sent)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
async def test_one_changed_byte_of_id_or_timestamp_makes_both_libraries_refuse(name: str) -> None:
    request = await captured(Secrets(current=CURRENT))
    last = request.as_dict[name]
    flipped = "1" if last[-2] != "1" else "2"
    sent = request.as_dict | {name: last[:-2] + flipped + last[-1]}
    for judge, error in JUDGES:
        with pytest.raises(error):
            judge(CURRENT).verify(request.body, sent)


async def test_another_secret_is_refused_by_all_three() -> None:
    request = await captured(Secrets(current=CURRENT))
    assert not founding_verifier(
        request.body.decode(), request.as_dict["x-webhook-signature"], PREVIOUS
    )
    for judge, error in JUDGES:
        with pytest.raises(error):
            judge(PREVIOUS).verify(request.body, request.as_dict)


TEXTS = ("job_1", "a.b.c", "Ärger im Büro 😀", "%2E", "a b\u00a0c", "x" * 200, "😀" * 200)


@pytest.mark.parametrize("secrets", [
    Secrets(current=CURRENT), Secrets(current=CURRENT, previous=PREVIOUS),
], ids=["ordinary", "rotation"])  # fmt: skip
@pytest.mark.parametrize("text", TEXTS)
async def test_the_receiver_reads_from_signed_headers_which_job_it_is(
    text: str, secrets: Secrets
) -> None:
    """D10: id, status and run arrive over a real socket as they were submitted, whatever characters
    they have, and hold under each secret that signs; what is not known is not there."""
    named: dict[str, Any] = {"job_id": text, "job_status": text, "run": 7}
    nameless: dict[str, Any] = {"job_id": text}
    for known in (named, nameless, nameless | {"run": 1}):
        sent = (await captured(secrets, **known)).as_dict
        for secret in filter(None, (secrets.current, secrets.previous)):
            verified = signature.verify(BODY, sent, secret, now_s=time.time())
            assert verified.job == signature.Job(
                id=text, status=known.get("job_status"), run=known.get("run")
            )
        assert ("x-postback-job-status" in sent) == ("job_status" in known)
        assert ("x-postback-job-run" in sent) == ("run" in known)
        for judge, _ in JUDGES:
            assert judge(CURRENT).verify(BODY, sent) is not False


@pytest.mark.parametrize("name", ["id", "status", "run"])
async def test_a_changed_header_of_the_job_counts_for_nothing(name: str) -> None:
    sent = (await captured(Secrets(current=CURRENT), job_status="done", run=1)).as_dict
    changed = sent | {f"x-postback-job-{name}": "2"}
    assert signature.verify(BODY, changed, CURRENT, now_s=time.time()).job is None


async def test_a_customer_without_a_whsec_secret_gets_the_founding_scheme_alone() -> None:
    """So no header tells of the job what nothing vouches for."""
    sent = (await captured(Secrets(current="plain text, no base64!"), run=1)).as_dict
    assert not [name for name in sent if name.startswith(("webhook-", "x-postback-job"))]


# --- stored secrets ---


class Shelf(Vault):
    """A vault whose tenants have secrets stored for headers, too."""

    def __init__(self, **values: str) -> None:
        super().__init__(*(stored_signing(tenant) for tenant in ("acme", "other")))
        self.on_shelf = {name: kept(name, it) for name, it in values.items()}
        self.looks = 0

    async def stored(self, owner: str) -> dict[str, StoredSecret]:
        self.looks += 1
        found = dict(self.on_shelf) if owner == "acme" else {}
        self.reading.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return found


def kept(name: str, value: str = "", **changes: Any) -> StoredSecret:
    return StoredSecret(**{"name": name, "value": value, "updated_ms": 0, **changes})


def stored_signing(tenant: str) -> SigningSecret:
    return stored(CURRENT, tenant=tenant, id=f"se_{tenant}")


KEY = SecretRef("crm", "Bearer ")


async def header(book: SecretCache, *, tenant: str = "acme", ref: SecretRef = KEY) -> str:
    """What a delivery's header says."""
    secrets = await book.for_delivery(tenant, "ds_1", 0, (ref.name,))
    naming = delivery("http://127.0.0.1:9/", secret_headers=(("Authorization", ref),))
    ((_, value),) = with_secrets(naming, secrets).headers
    return value


def test_a_callbacks_own_header_replaces_one_that_a_secret_makes() -> None:
    """Whether that secret is there or not; all others are made, and nothing else is changed."""
    there = Secrets(current=CURRENT, stored={"crm": kept("crm", "one")})
    naming = delivery(
        "http://127.0.0.1:9/",
        headers=(("x-key", "own"), ("X-Team", "a")),
        secret_headers=(("X-Key", SecretRef("gone")), ("Authorization", KEY)),
    )
    made = with_secrets(naming, there)
    assert made.headers == (("Authorization", "Bearer one"), ("x-key", "own"), ("X-Team", "a"))
    assert made.secret_headers == ()
    plain = delivery("http://127.0.0.1:9/", headers=(("X-Team", "a"),))
    assert with_secrets(plain, there) is plain


async def test_stored_secrets_are_read_where_a_header_names_one_and_then_kept() -> None:
    """Nobody pays who has none; and none is read for each delivery."""
    shelf = Shelf(crm="one")
    at_ms = 0
    book = SecretCache(shelf.secrets, shelf.stored, monotonic_ms=lambda: at_ms)
    assert (await book.for_delivery("acme", "ds_1", 0)).stored == {}
    assert shelf.looks == 0
    assert set(await asyncio.gather(*(header(book) for _ in range(50)))) == {"Bearer one"}
    assert shelf.looks == 1
    assert (await book.for_delivery("acme", "ds_1", 0)).stored == {}
    assert "one" not in repr(await book.for_delivery("acme", "ds_1", 0, ("crm",)))

    shelf.on_shelf = {"crm": kept("crm", "two")}
    assert await header(book) == "Bearer one"
    book.forget("acme")
    assert await header(book) == "Bearer two"
    shelf.on_shelf = {"crm": kept("crm", "three")}
    book.forget_all()
    assert await header(book) == "Bearer three"
    shelf.on_shelf = {"crm": kept("crm", "four")}
    at_ms = 30_000
    assert await header(book) == "Bearer four"


async def test_what_was_read_before_is_sent_while_it_cannot_be_read_again() -> None:
    """D10: as signing secrets are; but not what is known to have changed here."""
    shelf = Shelf(crm="one")
    book = SecretCache(shelf.secrets, shelf.stored)
    assert await header(book) == "Bearer one"
    shelf.error = StoreUnavailable("down")
    book.forget_all()
    assert await header(book) == "Bearer one"
    book.forget("acme")
    with pytest.raises(StoreUnavailable):
        await header(book)


async def test_a_reading_of_stored_secrets_that_hangs_keeps_no_other_tenant_waiting() -> None:
    """I6."""
    shelf = Shelf(crm="one")
    book = SecretCache(shelf.secrets, shelf.stored)
    for tenant in ("acme", "other"):
        await book.for_delivery(tenant, "ds_1", 0)
    shelf.gate.clear()
    shelf.reading.clear()
    hanging = asyncio.create_task(header(book))
    await shelf.reading.wait()
    assert (await book.for_delivery("other", "ds_1", 0)).current == CURRENT
    assert (await book.for_delivery("acme", "ds_2", 0)).current == CURRENT
    shelf.gate.set()
    assert await hanging == "Bearer one"


async def test_one_that_is_news_is_read_at_once_and_one_that_is_missing_rarely() -> None:
    """Another process may have stored it a moment ago; a thousand deliveries that wait for one that
    is not there ask once a second."""
    shelf = Shelf(other="one")
    at_ms = 0
    book = SecretCache(shelf.secrets, shelf.stored, monotonic_ms=lambda: at_ms)
    assert await header(book, ref=SecretRef("other")) == "one"
    shelf.on_shelf["crm"] = kept("crm", "two")
    assert await header(book) == "Bearer two"
    looks = shelf.looks
    for now in (1_000, 1_500, 1_999, 2_000):
        at_ms = now
        with pytest.raises(SecretMissing) as caught:
            await header(book, ref=SecretRef("gone"))
        assert lack_of(caught.value) == "stored_secrets"
    assert shelf.looks == looks + 2
    assert await header(book) == "Bearer two"


UNOPENED = Unopened(lack="keys", message="sealed with the key k1")


async def test_one_that_cannot_be_opened_keeps_no_other_from_being_sent() -> None:
    """The reason is for our own log; where a key is missing, that is what we lack."""
    shelf = Shelf(other="one")
    shelf.on_shelf["crm"] = kept("crm", unopened=UNOPENED)
    book = SecretCache(shelf.secrets, shelf.stored)
    with pytest.raises(SecretMissing) as caught:
        await header(book)
    assert (str(caught.value), caught.value.detail) == (
        "not sent: a header names the stored secret crm, which cannot be opened",
        UNOPENED.message,
    )
    assert lack_of(caught.value) == "keys"
    assert await header(book, ref=SecretRef("other")) == "one"
    with pytest.raises(SecretMissing):
        await book.stored("other", "crm")
    assert await book.stored("acme", "other") == "one"


async def test_one_that_another_process_sealed_with_a_key_that_we_lack_is_known_still() -> None:
    """Unless it was replaced."""
    shelf = Shelf(crm="one")
    book = SecretCache(shelf.secrets, shelf.stored)
    assert await header(book) == "Bearer one"
    shelf.on_shelf = {"crm": kept("crm", unopened=UNOPENED)}
    book.forget_all()
    assert await header(book) == "Bearer one"
    shelf.on_shelf = {"crm": kept("crm", unopened=UNOPENED, updated_ms=1)}
    book.forget_all()
    with pytest.raises(SecretMissing):
        await header(book)


async def test_i7_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.signing._CACHED_MAX", 10)
    shelf = Shelf(crm="one", other="two")

    async def everybodys(_owner: str) -> dict[str, StoredSecret]:
        shelf.looks += 1
        return shelf.on_shelf

    book = SecretCache(shelf.secrets, everybodys)
    for n in range(4):
        assert await book.stored(f"t{n}", "crm") == "one"
    assert shelf.looks == 4
    assert await book.stored("t3", "crm") == "one"
    assert shelf.looks == 4
    assert await book.stored("t0", "crm") == "one"
    assert shelf.looks == 5
