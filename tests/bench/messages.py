"""Deliveries to a receiver, signed before they are sent: signing is the dispatcher's work."""

import base64
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from receiver.testing import signed_request
from tests.bench.payload import address, payload

SECRET: Final = "whsec_" + base64.b64encode(b"bench: not a secret at all").decode()
_OTHER_SECRET: Final = "whsec_" + base64.b64encode(b"bench: not the right one!!").decode()


class Messages(ABC):
    """To one receiver. `accepted` is how a wanted answer begins."""

    arrive = False
    destinations = 1

    def __init__(self, url: str, accepted: bytes = b"HTTP/1.1 200") -> None:
        self.host, self.port = address(url)
        self.accepted = accepted

    @abstractmethod
    def request(self, number: int, destination: int) -> bytes:
        """The whole request of job `number`, or one in its place."""


class Fresh(Messages):
    """Each message once."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._ready: deque[bytes] = deque()
        self.signed_late = 0
        """How many were signed while they were wanted: more had been wanted than were ready."""

    def prepare(self, numbers: Iterable[int]) -> list[bytes]:
        """Sign these jobs' messages, in place of what is left of earlier ones."""
        self._ready = deque(signed(number) for number in numbers)
        return list(self._ready)

    def request(self, number: int, destination: int) -> bytes:
        """The next that is ready; where there is none, that of job `number`."""
        if self._ready:
            return self._ready.popleft()
        self.signed_late += 1
        return signed(number)


class Repeated(Messages):
    """The same ones again and again, for who does not look or refuses them all."""

    def __init__(self, url: str, requests: list[bytes], accepted: bytes = b"HTTP/1.1 200") -> None:
        super().__init__(url, accepted)
        self._requests: Iterator[bytes] = itertools.cycle(requests)

    def request(self, number: int, destination: int) -> bytes:
        """The next of them, whichever job is asked for."""
        return next(self._requests)


def flood(url: str) -> Repeated:
    """Well-formed and fresh, with signatures of somebody else's secret: each costs its check."""
    return Repeated(url, [signed(0, _OTHER_SECRET)], b"HTTP/1.1 401")


def signed(number: int, secret: str = SECRET) -> bytes:
    """The whole request that delivers job `number`, as the dispatcher signs it."""
    body = payload(number)
    headers = {"Host": "receiver", "Content-Length": len(body), **signed_request(body, secret)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /webhooks HTTP/1.1\r\n{lines}\r\n".encode() + body
