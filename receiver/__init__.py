"""The receiver: verifies signed completions and handles each one once.

`verify` and its companions need the standard library alone. `Receiver` is the service; its
packages are imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from receiver.base.completion import ParseError
from receiver.base.extras import explained
from receiver.event import Event
from receiver.signature import Job, SignatureError, Verified, generate_secret, signed_headers
from receiver.source import Source
from receiver.verification.verify import verify

if TYPE_CHECKING:
    from receiver.app import Receiver
    from receiver.settings import Settings

__all__ = [
    "Event",
    "Job",
    "ParseError",
    "Receiver",
    "Settings",
    "SignatureError",
    "Source",
    "Verified",
    "generate_secret",
    "signed_headers",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "Receiver":
        try:
            from receiver.app import Receiver
        except ModuleNotFoundError as error:
            raise explained(error, "receiver") from None

        return Receiver
    if name == "Settings":
        from receiver.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
