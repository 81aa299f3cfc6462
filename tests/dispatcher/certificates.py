"""Self-signed certificates made on the spot, so that no key lies in the repository.

RSA and DER by hand, since the standard library signs no certificates. For tests only: the keys come
from a seeded generator.
"""

import base64
import hashlib
import ssl
from functools import cache
from pathlib import Path
from random import Random

_E = 65_537
_RSA = bytes.fromhex("2a864886f70d010101")  # rsaEncryption
_SHA256_RSA = bytes.fromhex("2a864886f70d01010b")  # sha256WithRSAEncryption
_COMMON_NAME = bytes.fromhex("550403")
_ALT_NAMES = bytes.fromhex("551d11")
_SHA256_DIGEST = bytes.fromhex("3031300d060960864801650304020105000420")


def server_context(folder: Path, *, until: str = "20491231235959Z") -> tuple[ssl.SSLContext, str]:
    """A server's context with a certificate for 127.0.0.1 and localhost that ends at `until`, and
    the certificate as text, for a client to trust."""
    certificate, key = _self_signed(until)
    path = folder / "server.pem"
    path.write_text(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, certificate


def trusting(certificate: str) -> ssl.SSLContext:
    """A client's context that verifies as usual and trusts this one certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate)
    return context


def _self_signed(until: str) -> tuple[str, str]:
    p, q = _primes()
    n, d = p * q, pow(_E, -1, (p - 1) * (q - 1))
    algorithm = _seq(_der(0x06, _SHA256_RSA), _der(0x05))
    name = _seq(_der(0x31, _seq(_der(0x06, _COMMON_NAME), _der(0x0C, b"localhost"))))
    public = _seq(_seq(_der(0x06, _RSA), _der(0x05)), _bits(_seq(_int(n), _int(_E))))
    names = _seq(_der(0x82, b"localhost"), _der(0x87, bytes((127, 0, 0, 1))))
    extensions = _der(0xA3, _seq(_seq(_der(0x06, _ALT_NAMES), _der(0x04, names))))
    lifetime = _seq(_der(0x18, b"20000101000000Z"), _der(0x18, until.encode()))
    version = _der(0xA0, _int(2))
    body = _seq(version, _int(1), algorithm, name, lifetime, name, public, extensions)
    signed = _seq(body, algorithm, _bits(_sign(body, n, d)))
    inverse = pow(q, -1, p)
    key = _seq(*map(_int, (0, n, _E, d, p, q, d % (p - 1), d % (q - 1), inverse)))
    return _pem("CERTIFICATE", signed), _pem("RSA PRIVATE KEY", key)


@cache
def _primes() -> tuple[int, int]:
    random = Random(20_260_131)
    return _prime(random), _prime(random)


def _prime(random: Random) -> int:
    small = [p for p in range(3, 2_000, 2) if all(p % d for d in range(3, int(p**0.5) + 1, 2))]
    while True:
        # The two top bits make the product of two exactly 2,048 bits long.
        candidate = random.getrandbits(1_024) | (3 << 1_022) | 1
        if all(candidate % p for p in small) and pow(2, candidate - 1, candidate) == 1:
            return candidate


def _sign(message: bytes, n: int, d: int) -> bytes:
    digest = _SHA256_DIGEST + hashlib.sha256(message).digest()
    padded = b"\x00\x01" + b"\xff" * (256 - 3 - len(digest)) + b"\x00" + digest
    return pow(int.from_bytes(padded, "big"), d, n).to_bytes(256, "big")


def _der(tag: int, content: bytes = b"") -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _seq(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _int(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _bits(content: bytes) -> bytes:
    return _der(0x03, b"\x00" + content)


def _pem(kind: str, content: bytes) -> str:
    lines = base64.encodebytes(content).decode()
    return f"-----BEGIN {kind}-----\n{lines}-----END {kind}-----\n"
