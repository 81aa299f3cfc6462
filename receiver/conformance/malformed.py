"""Bodies that are validly signed, and that no receiver can make anything of; and huge ones."""

from typing import Final

from receiver.conformance.case import Case, refuse
from receiver.conformance.delivery import Delivery, Signer, chunked, with_header

DEPTH: Final = 100_000
DIGITS: Final = 5_000  # beyond what Python's own int() takes
HEADER_BYTES: Final = 1024 * 1024

_LOST: Final = (
    "answer 4xx to what cannot be read: after a 2xx it is lost, else tried again for days"
)
_CRASH: Final = (
    "catch what parser and database raise, and answer 4xx; else it is tried again for days"
)
_TEXT: Final = "jobId is text of 1 to some 200 printable characters: check it before you store it"
_AMBIGUOUS: Final = "two readers may read it differently: refuse it"
_LIMIT: Final = "set a limit on bodies, counted while they come in: any sender can fill your memory"


def malformed(signer: Signer) -> list[Case]:
    """None may be a 5xx; those that mean nothing to anybody must not be a 2xx either."""
    job = signer.job("malformed").encode()
    # Signed by the founding scheme alone where that is there: a signed id would name any bytes.
    standard = not signer.sha256

    def signed(body: bytes) -> Delivery:
        return signer.deliver(body, "malformed", standard=standard)

    unreadable, doubtful = (
        (_UNREADABLE, [*_DOUBTFUL, _UTF_16]) if signer.sha256 else ([], _DOUBTFUL)
    )
    packed = with_header(signed(b"\x1f\x8b" + bytes(100)), "Content-Encoding", "gzip")
    stuffed = with_header(signed(b'{"jobId":"' + job + b'"}'), "X-Stuffing", "x" * HEADER_BYTES)
    return [
        *(refuse(f"malformed: {name}", signed(body), _LOST) for name, body in unreadable),
        *(
            refuse(f"malformed: {name}", signed(body.replace(b"JOB", job)), why, advice=True)
            for name, body, why in doubtful
        ),
        refuse("malformed: compressed", packed, "refuse Content-Encoding: 415", advice=True),
        refuse(
            "a megabyte of header",
            stuffed,
            "let your server limit headers; most do",
            advice=True,
            may_close=True,
        ),
    ]


def huge(signer: Signer, huge_bytes: int) -> list[Case]:
    """Sign validly a body larger than any completion; with its length and without."""
    delivery = signer.deliver(signer.payload("huge", filler="x" * huge_bytes), "huge")
    return [
        refuse("a huge body", delivery, _LIMIT, advice=True, may_close=True),
        refuse(
            "a huge body without its length", chunked(delivery), _LIMIT, advice=True, may_close=True
        ),
    ]


_UNREADABLE: Final = [
    ("no JSON", b"{"),
    ("nothing", b""),
    ("not UTF-8", b'{"jobId":"x\xff","status":"completed"}'),
    ("an array", b"[1]"),
    ("null", b"null"),
    ("no jobId", b'{"status":"completed"}'),
]
_DOUBTFUL: Final = [
    ("a number as jobId", b'{"jobId":7,"status":"completed"}', _TEXT),
    ("an empty jobId", b'{"jobId":"","status":"completed"}', _TEXT),
    ("an endless jobId", b'{"jobId":"' + b"j" * 100_000 + b'"}', _TEXT),
    ("half a character in jobId", b'{"jobId":"JOB\\ud800","status":"completed"}', _TEXT),
    ("a NUL in jobId", b'{"jobId":"JOB\\u0000","status":"completed"}', _TEXT),
    ("nesting without end", b'{"jobId":"x","y":' + b"[" * DEPTH + b"]" * DEPTH + b"}", _CRASH),
    ("a number without end", b'{"jobId":"JOB","cost":' + b"9" * DIGITS + b"}", _CRASH),
    ("NaN", b'{"jobId":"JOB","cost":NaN}', _AMBIGUOUS),
    ("two jobIds", b'{"jobId":"a","jobId":"JOB"}', _AMBIGUOUS),
]
_UTF_16: Final = ("UTF-16", '{"jobId":"x","status":"completed"}'.encode("utf-16"), "JSON is UTF-8")
