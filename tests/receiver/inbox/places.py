"""Where an inbox may lie: each test of its promises runs in every such place."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from receiver.inbox.inbox import Inbox
from receiver.inbox.opening import open_inbox
from receiver.settings import Encryption, Settings


def key(name: str) -> str:
    """A key of this name, as settings take it: always the same."""
    return f"{name}:{b64encode(sha256(name.encode()).digest()).decode()}"


@dataclass(frozen=True, slots=True)
class Place:
    """A database of one test's own, empty at first."""

    url: str
    keys: tuple[str, ...] = ()

    async def open(
        self,
        *,
        lease_s: float = 30.0,
        on_due: Callable[[], None] | None = None,
        keys: tuple[str, ...] | None = None,
        encryption: Encryption = "auto",
    ) -> Inbox:
        """The inbox there, as a process opens it, with these keys (None: those of the place)."""
        keys = self.keys if keys is None else keys
        settings = Settings(database_url=self.url, encryption_keys=keys, encryption=encryption)
        object.__setattr__(settings, "lease", lease_s)  # also one that is over at once
        return await open_inbox(settings, on_due=on_due)
