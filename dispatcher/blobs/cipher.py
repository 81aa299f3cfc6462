"""Parts sealed with a key that is theirs alone: AES-256-GCM, whose nonce is the part's number, as
each part is sealed once. The key stands, sealed by the ring, in the row of what is kept: so the
bytes never have to be written anew for another key of the ring. Needs `cryptography`."""

from typing import Final

from receiver.base.keyring import KEY_BYTES

_NONCE_BYTES: Final = 12


class Damaged(Exception):
    """A part is not as it was sealed, or stood elsewhere."""


def seal(key: bytes, id: str, n: int, part: bytes | bytearray) -> bytes:
    """Return part number `n` of `id`, sealed."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key).encrypt(_nonce(n), part, id.encode())


def unseal(key: bytes, id: str, n: int, sealed: bytes) -> bytes:
    """Return what was sealed. Raises Damaged."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(key) != KEY_BYTES:
        raise Damaged(f"the key of {id} is none")
    try:
        return AESGCM(key).decrypt(_nonce(n), sealed, id.encode())
    except (InvalidTag, ValueError):
        raise Damaged(f"part {n} of {id} is damaged") from None


def _nonce(n: int) -> bytes:
    return n.to_bytes(_NONCE_BYTES, "big")
