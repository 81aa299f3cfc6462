"""The founding document's completion callback, made unique by a number in its jobId."""

import json
from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

ADMIN_KEY: Final = "bench-admin-key"
_MARK: Final = "job_" + "0" * 16  # as long as the document's own job ids
_PAYLOAD: Final = json.dumps(
    {
        "jobId": _MARK,
        "status": "completed",
        "output": {
            "document_url": "https://storage.tensorone.ai/documents/report_abc123.pdf",
            "pages": 50,
            "word_count": 12500,
            "generation_time": 287,
        },
        "executionTime": 287.5,
        "completedAt": "2024-01-15T14:34:47Z",
        "cost": 0.75,
        "tags": {"userId": "user_12345", "projectId": "proj_report_gen"},
    }
)
PAYLOAD_BYTES: Final = len(_PAYLOAD)
_NUMBER: Final = slice(_PAYLOAD.index(_MARK) + 4, _PAYLOAD.index(_MARK) + len(_MARK))


def job_id(number: int) -> str:
    """The jobId of job `number`."""
    return f"job_{number:016x}"


def payload(number: int) -> bytes:
    """What is delivered for job `number`."""
    return _PAYLOAD.replace(_MARK, job_id(number)).encode()


def number_at(data: bytes, body: int) -> int:
    """The number of the job whose payload begins at `body`."""
    return int(data[body + _NUMBER.start : body + _NUMBER.stop], 16)


class Requests(Protocol):
    """What a load generator sends, and to whom."""

    host: str
    port: int
    destinations: int
    accepted: bytes
    """How an answer begins that is as wanted."""
    arrive: bool
    """Whether each request leads to an arrival at the sink, which is waited for."""

    def request(self, number: int, destination: int) -> bytes:
        """The whole request of job `number`, for the n-th destination."""
        ...


class Submits:
    """Requests to one dispatcher, ready but for the jobId: making one costs a join."""

    accepted = b"HTTP/1.1 202"
    arrive = True

    def __init__(
        self,
        dispatcher_url: str,
        callback_urls: Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.destinations = len(callback_urls)
        self.host, self.port = address(dispatcher_url)
        self._parts = [self._prepare(url) for url in callback_urls]

    def request(self, number: int, destination: int) -> bytes:
        """The whole request that submits job `number` to the n-th destination."""
        return (b"job_%016x" % number).join(self._parts[destination])

    def _prepare(self, callback_url: str) -> list[bytes]:
        body = line(0, callback_url)
        head = (
            "POST /v1/callbacks HTTP/1.1\r\n"
            f"Host: {self.host}:{self.port}\r\n"
            f"Authorization: Bearer {ADMIN_KEY}\r\n{self._headers}"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return (head.encode() + body).split(_MARK.encode())


def line(number: int, callback_url: str, **fields: object) -> bytes:
    """A submit as JSON, with more fields if wanted."""
    about = {"jobId": job_id(number), "callbackUrl": callback_url, **fields}
    return json.dumps(about).encode()[:-1] + b', "payload": ' + payload(number) + b"}"


def address(url: str) -> tuple[str, int]:
    """Host and port of a server's URL."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"not a server's address: {url}")
    return parts.hostname, parts.port
