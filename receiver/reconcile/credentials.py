"""What a status URL is asked with: by name, from a provider, and never into the inbox."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias
from urllib.parse import urlsplit

# Given a name and the URL that will be asked: the headers that show who asks. KeyError: no such
# name; ValueError: the name is not for this URL.
Credentials: TypeAlias = Callable[[str, str], Mapping[str, str]]

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class Tokens:
    """Bearer tokens by name, each for one host and nothing else: a status URL is data, and data
    must not decide who gets to see a token."""

    def __init__(self, entries: Iterable[str]) -> None:
        """`name@host=token` each. Raises ValueError, without showing a token."""
        self._tokens: dict[str, tuple[str, str]] = {}
        for n, entry in enumerate(entries, start=1):
            what, equals, token = entry.partition("=")
            name, at, host = what.partition("@")
            if not (name and at and host and equals and token):
                raise ValueError(f"entry {n} is not name@host=token")
            if not token.isascii() or not token.isprintable() or name in self._tokens:
                raise ValueError(f"entry {n} repeats a name, or its token is not printable ASCII")
            self._tokens[name] = (host.lower(), token)

    def __call__(self, name: str, url: str) -> Mapping[str, str]:
        if name not in self._tokens:
            raise KeyError(name)
        host, token = self._tokens[name]
        parts = urlsplit(url)
        if (parts.hostname or "").lower() != host:
            raise ValueError(f"the credentials {name} are for {host} alone")
        if parts.scheme != "https" and host not in _LOOPBACK:
            raise ValueError(f"the credentials {name} are shown over https alone")
        return {"authorization": f"Bearer {token}"}
