"""The keys that links and tokens in URLs are made with: the newest one makes them, and two are
good, so that what the one before it made lasts on. Portable."""

from contextlib import suppress
from typing import Final

from dispatcher.jobs.tokens import KEY_BYTES
from dispatcher.store import rows
from dispatcher.store.errors import CannotUnseal
from dispatcher.store.sealing import LINK_KEYS
from dispatcher.store.tx import Tx
from dispatcher.values import LinkKey

GOOD: Final = 2
"""So many keys are good at once."""
_KEYS: Final = "SELECT id, value, created_ms FROM link_keys ORDER BY id DESC LIMIT ?"


def keys(tx: Tx) -> list[LinkKey]:
    """Return those that are good, the newest one first. One that no key of ours opens is as good as
    gone: what was made with it can no longer be checked."""
    found = []
    for id, stored, created_ms in tx.all(_KEYS, GOOD):
        with suppress(CannotUnseal):
            value = bytes.fromhex(rows.open_text(tx, stored, LINK_KEYS, id, ""))
            found.append(LinkKey(id=id, value=value, created_ms=created_ms))
    return found


def ensure(tx: Tx, new: LinkKey) -> list[LinkKey]:
    """Have there be one, `new` where there is none; return those that are good."""
    found = keys(tx)
    if found:
        return found
    _add(tx, new)
    return keys(tx)


def rotate(tx: Tx, new: LinkKey, after: str) -> list[LinkKey]:
    """Make links and tokens with `new` from now on, unless another than `after` makes them; what
    the key before it made stays good until the next rotation. Returns those that are good."""
    found = keys(tx)
    if found and found[0].id != after:
        return found
    _add(tx, new)
    found = keys(tx)
    tx.run("DELETE FROM link_keys WHERE id < ?", found[-1].id)
    return found


def bring_back(tx: Tx, key: str, now_ms: int) -> list[LinkKey]:
    """Have a key be made now that a clock ahead made (D20); return those that are good."""
    sql = "UPDATE link_keys SET created_ms = ? WHERE id = ? AND created_ms > ?"
    tx.run(sql, now_ms, key, now_ms)
    return keys(tx)


def _add(tx: Tx, new: LinkKey) -> None:
    assert len(new.value) == KEY_BYTES  # noqa: S101 - whoever makes one knows
    tx.run(
        "INSERT INTO link_keys (id, value, created_ms) VALUES (?, ?, ?)",
        new.id,
        rows.seal_text(tx, new.value.hex(), LINK_KEYS, new.id, ""),
        new.created_ms,
    )
    tx.notify("endpoints")
