"""How the clients of a dialect are spoken to, where that is another way than ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from dispatcher.api.errors import CODES

_BEARER: Final = "Bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """What a dialect does its own way. `statuses` are those of error codes that have another one
    there. `bare_key`: `Authorization` may hold the key alone. `request_id`: `X-Request-Id` names
    the request, or the job that it is about once that is known."""

    statuses: Mapping[str, int] = field(default_factory=dict)
    bare_key: bool = False
    request_id: Literal["request", "job"] = "request"

    def status(self, code: str) -> int:
        """Return the status of an error."""
        return self.statuses.get(code) or CODES[code][0]

    def authorization(self, header: str | None) -> str | None:
        """Return an `Authorization` header as our own clients write it."""
        if self.bare_key and header and " " not in header.strip(" "):
            return _BEARER + header
        return header


OURS: Final = Manner()
