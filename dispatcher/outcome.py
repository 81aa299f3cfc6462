"""What one attempt met. A peer's faults are values, never exceptions."""

import re
from typing import Final, Literal

from receiver.base.value import frozen

Kind = Literal[
    "answered",  # a complete head, whatever its code and its body
    "timeout",  # the overall deadline passed
    "unreachable",  # blocked, refused, reset before an answer or not resolvable: one class (D9)
    "tls_error",  # the TLS handshake or the certificate failed
    "protocol_error",  # an answer that is not HTTP, or breaks our limits
    "interrupted",  # we could not make it, or stopped before the answer came: our own fault (D21)
]
AttemptOutcome = (
    Literal["acknowledged", "rejected"]
    | Literal["timeout", "unreachable", "tls_error", "protocol_error", "interrupted"]
)
"""An attempt's `outcome`, as history, the API, logs and metrics name it: an answer is
`acknowledged` or `rejected` by the delivery's policy, and its code stands in `statusCode`."""

Cause = Literal["blocked", "dns", "refused", "closed", "tls", "proxy", "network"]
"""Why no peer answered: our own rules of egress, its name, nobody who listens, a connection that
ended, TLS, our proxy, or anything else on the way. For operators alone (D9)."""


_CLASS: Final = re.compile(r"^[A-Z]\w*(?:Error|Disconnected): ")  # of the exception
INTERRUPTED: Final = "the dispatcher could not make this attempt: a fault of its own"
TOO_MANY_REQUESTS: Final = 429
SERVICE_UNAVAILABLE: Final = 503


@frozen
class Outcome:
    """What one POST met. `error` may be shown to the tenant; `detail` is for our own log only,
    since it could tell a port scanner what is listening inside."""

    kind: Kind
    started_ms: int
    duration_ms: float
    status_code: int | None = None
    error: str | None = None
    detail: str | None = None
    excerpt: str | None = None  # the beginning of the answer's body, as text
    connected: bool = True  # False: it failed before it reached a path of its server
    retry_after_ms: int | None = None  # as asked for, but never above DISPATCHER_RETRY_AFTER_MAX
    lack: str | None = None  # of an interrupted one: what we lacked, in one word
    cause: Cause | None = None  # what `detail` is about, where it never reached its peer

    @property
    def reason(self) -> str | None:
        """What history keeps for operators: cause and detail."""
        if self.cause is None:
            return None
        detail = _CLASS.sub("", self.detail or "")
        return f"{self.cause}: {detail}" if detail else self.cause

    @property
    def error_code(self) -> str:
        """The word of `lastError` and of the filter `error`: `http_503`, `timeout`, …"""
        return f"http_{self.status_code}" if self.kind == "answered" else self.kind

    @property
    def turned_away(self) -> bool:
        """Whether the peer lives and wants less at a time: 429, or 503 with `Retry-After` (D11)."""
        if self.status_code == TOO_MANY_REQUESTS:
            return True
        return self.status_code == SERVICE_UNAVAILABLE and self.retry_after_ms is not None

    @property
    def down(self) -> bool:
        """Whether this says that the destination is down: no answer at all, or a 5xx that turns
        nobody away (D11)."""
        if self.kind == "answered":
            server_error = self.status_code is not None and self.status_code >= 500
            return server_error and not self.turned_away
        return self.kind != "interrupted"
