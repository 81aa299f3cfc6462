"""What is sealed in the database: by which keys, how much of it, and what to say where a key is
missing. `rows` seals and opens.

Sealed are texts that say so themselves (`enc1:…`), and the bodies of payloads of which their rows
say so (column `kid`). Each is bound to its table, column, row and tenant.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dispatcher.settings import Settings
from dispatcher.store.errors import KEYS_SETTING, CannotStart, NoKeyring
from dispatcher.store.tx import Sealing, Tx
from receiver.base import log
from receiver.base.keyring import KID_CHARS_MAX, PREFIX, Keyring, KeyringError, kid_of, read_keys

_LOG: Final = log.get("dispatcher.store")
Keys = Sequence[tuple[str, bytes]]
BODIES: Final = "payloads"
SCHEMA: Final = 20  # the first that has what is asked for here
HEAD_CHARS: Final = len(PREFIX) + KID_CHARS_MAX + 1  # of a sealed text: enough to name its key


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of sealed text, `what` it holds, and the column that names its rows. By SQL on the
    table `t`: the `tenant` of a row, what holds where there is something to seal (`filled`), and
    where it is still in use at the time `{now_ms}`. Of some there is only in a text that holds
    `mark`."""

    table: str
    name: str
    what: str
    id: str = "id"
    tenant: str = "t.tenant"
    filled: str = "1 = 1"
    in_use: str = "1 = 1"
    mark: str = ""

    def is_marked(self, plain: str) -> bool:
        """Whether there is something to seal in a text."""
        return self.mark in plain

    def place(self, id: str, tenant: str) -> tuple[str, str, str, str]:
        """Return what the value of a row is bound to."""
        return (self.table, self.name, id, tenant)


def _marked(column: str, mark: str) -> str:
    """Return what holds where `Column.is_marked` does, and of what is sealed already. (LIKE knows
    no case in SQLite.)"""
    value = f"t.{column}"
    is_sealed = f"substr({value}, 1, {len(PREFIX)}) = '{PREFIX}'"
    return f"({is_sealed} OR replace({value}, '{mark}', '') <> {value})"


SECRETS: Final = Column(
    table="secrets",
    name="value",
    what="signing secrets",
    in_use="coalesce(t.expires_ms, {now_ms} + 1) > {now_ms}",
)
STORED_SECRETS: Final = Column(table="stored_secrets", name="value", what="stored secrets")
DESTINATIONS: Final = Column(
    table="destinations",
    name="headers",
    what="destinations' headers",
    filled="t.headers <> '[]'",
    in_use="t.removed_ms IS NULL",
)
PAYLOADS: Final = Column(
    table="payloads",
    name="headers",
    what="callbacks' headers",
    id="callback",
    tenant="(SELECT tenant FROM callbacks c WHERE c.id = t.callback)",
    filled="t.headers <> '[]'",
)
# Within JSON, where no text holds a quote of its own.
_HEADERS: Final = '"headers"'
_ANY_HEADERS: Final = 'headers"'
ENDPOINTS: Final = Column(
    table="endpoints",
    name="rules",
    what="endpoints' headers",
    id="name",
    tenant="''",
    filled=_marked("rules", _HEADERS),
    mark=_HEADERS,
)
ENDPOINT_SECRETS: Final = Column(
    table="endpoint_secrets",
    name="value",
    what="endpoints' signing secrets",
    tenant="t.endpoint",
    in_use=SECRETS.in_use,
)
LINK_KEYS: Final = Column(
    table="link_keys",
    name="value",
    what="keys of links",
    tenant="''",
    in_use="1 = 0",  # one that is lost is replaced, and nothing waits for it
)
JOB_OPTIONS: Final = Column(
    table="jobs",
    name="options",
    what="jobs' headers",
    filled=_marked("options", _ANY_HEADERS),
    mark=_ANY_HEADERS,
)
JOB_SECRETS: Final = Column(
    table="jobs",
    name="secret",
    what="jobs' secrets",
    filled="t.secret <> ''",
)
CALLBACK_SECRETS: Final = Column(
    table="payloads",
    name="secret",
    what="callbacks' secrets",
    id="callback",
    tenant="(SELECT tenant FROM callbacks c WHERE c.id = t.callback)",
    filled="t.secret IS NOT NULL",
)
BLOB_KEYS: Final = Column(
    table="blobs",
    name="key",
    what="keys of long inputs and outputs",
    filled="t.key IS NOT NULL",
    in_use="t.state = 'kept'",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bodies:
    """A table of bodies (`body`, `kid`), the column that names its rows, the table `c` of what they
    belong to, and by SQL how many bytes a row has. `of` is the column that says whose it is, where
    that is another than the one that names it."""

    table: str
    id: str
    owner: str
    bytes: str
    of: str | None = None

    @property
    def owned_by(self) -> str:
        """The column that says whose a row is."""
        return self.of or self.id

    def place(self, id: str, tenant: str) -> tuple[str, str, str, str]:
        """Return what the body of a row is bound to."""
        return (self.table, "body", id, tenant)


PAYLOAD_BODIES: Final = Bodies(
    table="payloads", id="callback", owner="callbacks", bytes="c.payload_size"
)
INPUTS: Final = Bodies(table="inputs", id="job", owner="jobs", bytes="c.input_bytes")
OUTPUTS: Final = Bodies(
    table="outputs", id="job", owner="jobs", bytes="coalesce(c.output_bytes, 0)"
)
PROGRESS: Final = Bodies(table="job_progress", id="job", owner="jobs", bytes="0")
CHUNKS: Final = Bodies(table="chunks", id="id", owner="jobs", bytes="length(t.body)", of="job")
ALL_BODIES: Final[tuple[Bodies, ...]] = (INPUTS, OUTPUTS, CHUNKS, PROGRESS, PAYLOAD_BODIES)
# Every column of sealed text with few rows: what is added here is counted and sealed again with
# the rest. Those with many go last, and bodies with what they belong to.
COLUMNS: Final[tuple[Column, ...]] = (
    SECRETS,
    STORED_SECRETS,
    DESTINATIONS,
    ENDPOINTS,
    ENDPOINT_SECRETS,
    LINK_KEYS,
)
LARGE: Final[tuple[Column, ...]] = (
    JOB_OPTIONS,
    JOB_SECRETS,
    BLOB_KEYS,
    PAYLOADS,
    CALLBACK_SECRETS,
)


# --- the keys of this process ---


def given_keys(settings: Settings) -> Keys:
    """Return the keys of the settings. Raises CannotStart for what is none, and where there must
    be some."""
    text = settings.encryption_keys
    if not text:
        if settings.encryption == "required":
            raise CannotStart(
                f"DISPATCHER_ENCRYPTION is `required`, and {KEYS_SETTING} is not set: make a key "
                'with: echo "k1:$(openssl rand -base64 32)"'
            )
        return []
    try:
        return read_keys(text, KEYS_SETTING)
    except KeyringError as error:
        raise CannotStart(str(error)) from None


def sealing_of(settings: Settings, keys: Keys, key_file: Path | None = None) -> Sealing:
    """Return how to seal with these keys, some of which may be from a file. Raises CannotStart."""
    if not keys:
        if settings.encrypt_payloads == "on":
            raise CannotStart(f"DISPATCHER_ENCRYPT_PAYLOADS is on, and {KEYS_SETTING} is not set")
        return Sealing()
    try:
        ring = Keyring(list(dict.fromkeys(keys)))
    except KeyringError as error:
        where = KEYS_SETTING if key_file is None else f"{KEYS_SETTING} and {key_file}"
        raise CannotStart(f"{where}: {error}") from None
    return Sealing(ring=ring, payloads=settings.encrypt_payloads == "on", key_file=key_file)


def ring_of(tx: Tx, what: str) -> Keyring:
    """Return the keys, for what may be stored sealed only. Raises NoKeyring."""
    if tx.ring is None:
        raise NoKeyring(what)
    return tx.ring


# --- the keys that the database needs ---


def kids(tx: Tx) -> set[str]:
    """Return the names of the keys that something may be sealed with."""
    return {row[0] for row in tx.all("SELECT kid FROM sealed_by")}


def begin(tx: Tx, *, now_ms: int) -> None:
    """Note at the start with which key this process seals from now on. Raises CannotStart where
    what is stored needs keys, and there are none."""
    found = kids(tx)
    if tx.ring is None:
        if found:
            raise lost(found)
        _LOG.warning(
            "signing secrets and headers are stored as plain text: set DISPATCHER_ENCRYPTION_KEYS "
            "to seal them"
        )
        return
    if tx.ring.kid in found:
        return
    sql = "INSERT INTO sealed_by (kid, first_ms) VALUES (?, ?) ON CONFLICT DO NOTHING"
    tx.run(sql, tx.ring.kid, now_ms)
    if not found and tx.one("SELECT 1 FROM secrets LIMIT 1"):
        _LOG.warning(
            "from now on signing secrets and headers are stored sealed; what is there already "
            "stays plain until: dispatcher secrets reencrypt"
        )


def forget_kids(tx: Tx, but: Keyring) -> None:
    """Note that nothing is sealed with any other key than the one that this ring seals with."""
    tx.run("DELETE FROM sealed_by WHERE kid <> ?", but.kid)


def lost(missing: Iterable[str], key_file: Path | None = None) -> CannotStart:
    """Return what a start says that lacks the keys of what is stored."""
    names = ", ".join(sorted(missing))
    advice = f"set {KEYS_SETTING} to it"
    if key_file is not None:
        advice = f"put the file {key_file} back, or {advice}"
    return CannotStart(
        f"the database is sealed with the key {names}, which is not here: {advice}; without it "
        "nothing that is sealed can be read (to go on without what it sealed, set "
        f"{KEYS_SETTING} to a new key)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many values of a kind there are: plain, sealed with the key that seals now, with others
    that we have, and with keys that we do not have, one of which is `missing_kid`."""

    what: str
    plain: int = 0
    newest: int = 0
    older: int = 0
    missing: int = 0
    missing_kid: str | None = None

    @property
    def total(self) -> int:
        """All of them."""
        return self.plain + self.newest + self.older + self.missing


def count_small(tx: Tx, *, now_ms: int | None = None) -> list[Counted]:
    """Return what there is of all kinds but payloads, of which there are few; what is in use at
    `now_ms` alone, where that is given."""
    return [_counted_column(tx, column, now_ms) for column in COLUMNS]


def count(tx: Tx) -> list[Counted]:
    """Return what there is of every kind. Reads whole tables."""
    rows = [
        row
        for one in ALL_BODIES
        for row in tx.all(f"SELECT kid, count(*) FROM {one.table} GROUP BY kid")
    ]
    return [
        *count_small(tx),
        *(_counted_column(tx, column, None) for column in LARGE),
        _counted(BODIES, rows, tx.ring),
    ]


def _counted_column(tx: Tx, column: Column, now_ms: int | None) -> Counted:
    """Return what there is in a column. Where a key's name ends no portable function finds: so the
    names that we know are compared, and one of the others is read."""
    known = () if tx.ring is None else tx.ring.kids
    heads = [(kid, f"{PREFIX}{kid}:") for kid in known]
    value = f"t.{column.name}"
    cases = "".join(
        f"WHEN substr({value}, 1, {len(head)}) = '{head}' THEN '{kid}' " for kid, head in heads
    )
    kind = f"CASE WHEN substr({value}, 1, {len(PREFIX)}) <> '{PREFIX}' THEN '' {cases}ELSE '*' END"
    in_use = "1 = 1" if now_ms is None else column.in_use.format(now_ms=int(now_ms))
    rows = tx.all(
        f"SELECT kind, count(*), min(head) FROM (SELECT {kind} AS kind, "
        f"substr({value}, 1, {HEAD_CHARS}) AS head FROM {column.table} t WHERE {column.filled} "
        f"AND {in_use}) x "
        "GROUP BY kind"
    )
    named = [
        (None if kind == "" else kind if kind != "*" else kid_of(head) or "?", number)
        for kind, number, head in rows
    ]
    return _counted(column.what, named, tx.ring)


def _counted(what: str, rows: Iterable[Sequence[object]], ring: Keyring | None) -> Counted:
    known: Set[str] = frozenset() if ring is None else frozenset(ring.kids)
    plain = newest = older = missing = 0
    missing_kid: str | None = None
    for kid, number in rows:
        assert isinstance(number, int)  # noqa: S101 - for the type checker
        if kid is None:
            plain += number
        elif ring is not None and kid == ring.kid:
            newest += number
        elif kid in known:
            older += number
        else:
            missing += number
            missing_kid = str(kid)
    return Counted(
        what=what,
        plain=plain,
        newest=newest,
        older=older,
        missing=missing,
        missing_kid=missing_kid,
    )
