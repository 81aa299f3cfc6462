"""Sealing what is kept: AES-256-GCM under a ring of keys, of which the first seals and all open.

A sealed value says which key it needs, and is bound to where it stands: moved to another row,
column or tenant it does not open. No message and no repr shows a key. A ring needs `cryptography`,
the extra `encryption`; what is plain is read without.

Nonces are random, so that one key is good for 2^32 values (NIST SP 800-38D): put a new one in
front before.
"""

import base64
import binascii
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

PREFIX: Final = "enc1:"
KEY_BYTES: Final = 32
KEYS_MAX: Final = 64  # each is tried by name only: more would be a mistake
KID_CHARS_MAX: Final = 32  # shorter than any form of a key: a key cannot be taken for its name
OVERHEAD: Final = 28  # bytes of nonce and tag

_NONCE_BYTES: Final = 12
_KID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_BYTES_PREFIX: Final = PREFIX.encode()
_HEAD_MAX: Final = len(PREFIX) + KID_CHARS_MAX + 1
_KEY_KINDS_MIN: Final = 8  # different bytes in a key: at random it is nearly always over 25
_UNREADABLE: Final = "?"  # no name of a key


class KeyringError(Exception):
    """Keys that cannot be used: the message says what an operator is to do, and quotes none."""


class SealedError(Exception):
    """A value that no key of ours opens; fit to show. `kid` names the key that it asks for, "?"
    where not even that can be read; `missing` says whether we do not have that one. Otherwise the
    value is damaged, or stands where it was not put."""

    def __init__(self, bound: Sequence[str], kid: str, *, missing: bool) -> None:
        why = "which is not in the ring" if missing else "but is damaged or stood elsewhere"
        super().__init__(f"{'/'.join(bound)} is sealed with the key {kid}, {why}")
        self.kid = kid
        self.missing = missing


class Keyring:
    """Keys by name: the first seals, all open. `bound` says where a value stands: table, column,
    row, tenant."""

    __slots__ = ("_ciphers", "_head", "_kid", "_refused", "_text_head")

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        """Raise KeyringError for no key, too many, a name twice or one that is none, a key that is
        not 32 bytes, and where the package `cryptography` is missing."""
        _check(keys)
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise KeyringError(
                "keys for encryption need the package cryptography: "
                "pip install '.[encryption]' in a checkout"
            ) from None
        self._ciphers = {kid: AESGCM(key) for kid, key in keys}
        self._refused = (InvalidTag, ValueError)  # the latter: too short for a nonce and a tag
        self._kid = keys[0][0]
        self._text_head = f"{PREFIX}{self._kid}:"
        self._head = self._text_head.encode()

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(self._ciphers)}>"

    def __reduce__(self) -> str:
        raise TypeError("a key ring stays in its process")

    @property
    def kid(self) -> str:
        """The name of the key that seals."""
        return self._kid

    @property
    def kids(self) -> tuple[str, ...]:
        """The names of all keys, the one that seals first."""
        return tuple(self._ciphers)

    def seal(self, plain: bytes, *bound: str) -> bytes:
        """Return `enc1:<kid>:`, a nonce and the ciphertext with its tag."""
        return self._head + self._sealed(plain, bound)

    def open(self, sealed: bytes, *bound: str) -> bytes:
        """Return what was sealed for this place. Raises SealedError."""
        if sealed.startswith(self._head):  # mostly
            return self._opened(self._kid, sealed[len(self._head) :], bound)
        head = sealed[:_HEAD_MAX]
        kid = _kid_of(head.decode("ascii", "replace"))
        if kid is None or kid == _UNREADABLE:
            raise SealedError(bound, _UNREADABLE, missing=False)
        return self._opened(kid, sealed[len(_BYTES_PREFIX) + len(kid) + 1 :], bound)

    def seal_text(self, plain: str, *bound: str) -> str:
        """Return `enc1:<kid>:` and the base64 of nonce and ciphertext."""
        sealed = self._sealed(plain.encode(), bound)
        return self._text_head + base64.b64encode(sealed).decode("ascii")

    def open_text(self, stored: str, *bound: str) -> str:
        """Return what was sealed for this place; a plain text as it is. Raises SealedError."""
        kid = kid_of(stored)
        if kid is None:
            return stored
        if kid == _UNREADABLE:
            raise SealedError(bound, kid, missing=False)
        try:
            sealed = base64.b64decode(stored[len(PREFIX) + len(kid) + 1 :], validate=True)
        except (binascii.Error, ValueError):
            raise SealedError(bound, kid, missing=kid not in self._ciphers) from None
        return self._opened(kid, sealed, bound).decode()

    def _sealed(self, plain: bytes, bound: Sequence[str]) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[self._kid].encrypt(nonce, plain, _associated(bound))

    def _opened(self, kid: str, sealed: bytes, bound: Sequence[str]) -> bytes:
        cipher = self._ciphers.get(kid)
        if cipher is None:
            raise SealedError(bound, kid, missing=True)
        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return cipher.decrypt(nonce, body, _associated(bound))
        except self._refused:
            raise SealedError(bound, kid, missing=False) from None


def kid_of(stored: str | bytes) -> str | None:
    """Return the name of the key that a stored value needs, None for a plain one; "?", which no
    key is called, for one that is sealed by its beginning and names none."""
    head = stored[:_HEAD_MAX]
    return _kid_of(head if isinstance(head, str) else head.decode("ascii", "replace"))


def open_text(ring: Keyring | None, stored: str, *bound: str) -> str:
    """Return what a stored text says, also where there is no ring. Raises SealedError."""
    if not stored.startswith(PREFIX):
        return stored
    if ring is None:
        raise SealedError(bound, kid_of(stored) or _UNREADABLE, missing=True)
    return ring.open_text(stored, *bound)


def open_body(ring: Keyring | None, kid: str | None, stored: bytes, *bound: str) -> bytes:
    """Return what stored bytes say, whose row says by which key they are sealed (None: they are
    plain, whatever they begin with). Raises SealedError."""
    if kid is None:
        return stored
    if ring is None:
        raise SealedError(bound, kid, missing=True)
    return ring.open(stored, *bound)


def read_keys(text: str, name: str) -> list[tuple[str, bytes]]:
    """Return the keys of a list, `kid:base64 of 32 bytes` at commas or line ends. Raises
    KeyringError, which names the variable and the place in the list."""
    parts = [part.strip() for part in re.split(r"[,\r\n]", text) if part.strip()]
    keys = [_key(part, f"key {number} of {name}") for number, part in enumerate(parts, 1)]
    try:
        _check(keys)
    except KeyringError as error:
        raise KeyringError(f"{name}: {error}") from None
    return keys


def make_key() -> str:
    """Return a new key as `read_keys` takes it, named after the day."""
    kid = f"k{datetime.now(UTC):%Y%m%d}{os.urandom(2).hex()}"
    return f"{kid}:{base64.b64encode(os.urandom(KEY_BYTES)).decode('ascii')}"


def _key(part: str, which: str) -> tuple[str, bytes]:
    kid, colon, text = part.partition(":")
    if not colon or not _KID.fullmatch(kid):
        raise KeyringError(
            f"{which} takes a name of at most {KID_CHARS_MAX} letters and digits, a colon and "
            "base64: k2026:…"
        )
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise KeyringError(f"{which}: what follows the colon is no base64") from None
    if len(key) != KEY_BYTES:
        raise KeyringError(f"{which} must be {KEY_BYTES} bytes: openssl rand -base64 {KEY_BYTES}")
    if len(set(key)) < _KEY_KINDS_MIN:
        raise KeyringError(f"{which} is a placeholder: make one by openssl rand -base64 32")
    return kid, key


def _check(keys: Sequence[tuple[str, bytes]]) -> None:
    if not keys:
        raise KeyringError("there is no key in it")
    if len(keys) > KEYS_MAX:
        raise KeyringError(f"a ring has at most {KEYS_MAX} keys")
    if not all(_KID.fullmatch(kid) for kid, _ in keys):
        raise KeyringError(f"a key's name is at most {KID_CHARS_MAX} letters, digits and . _ -")
    if len({kid for kid, _ in keys}) < len(keys):
        raise KeyringError("two keys have the same name")
    if any(len(key) != KEY_BYTES for _, key in keys):
        raise KeyringError(f"a key is {KEY_BYTES} bytes")


def _kid_of(head: str) -> str | None:
    if not head.startswith(PREFIX):
        return None
    kid, colon, _ = head[len(PREFIX) :].partition(":")
    return kid if colon and _KID.fullmatch(kid) else _UNREADABLE


def _associated(bound: Sequence[str]) -> bytes:
    """Return what a value is bound to, each part with its length: no two places are the same."""
    parts = [part.encode("utf-8", "surrogatepass") for part in bound]
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)
