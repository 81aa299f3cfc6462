"""What one attempt met. A peer's faults are values, never exceptions."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "answered",  # a complete answer, whatever its code
    "timeout",  # the overall deadline passed
    "unreachable",  # blocked, refused, reset before an answer or not resolvable: one class (D9)
    "tls_error",  # the TLS handshake or the certificate failed
    "protocol_error",  # an answer that is not HTTP, or breaks our limits
    "interrupted",  # we stopped before the answer came (shutdown)
]
AttemptOutcome = (
    Literal["acknowledged", "rejected"]
    | Literal["timeout", "unreachable", "tls_error", "protocol_error", "interrupted"]
)
"""An attempt's `outcome`, as history, the API, logs and metrics name it: a complete answer is
`acknowledged` or `rejected` by the delivery's policy, and its code stands in `statusCode`."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
    retry_after_ms: int | None = None  # as asked for, but never above DISPATCHER_RETRY_AFTER_MAX

    @property
    def error_code(self) -> str:
        """The word of `lastError` and of the filter `error`: `http_503`, `timeout`, …"""
        return f"http_{self.status_code}" if self.kind == "answered" else self.kind

    @property
    def down(self) -> bool:
        """Whether this says that the destination is down: no answer at all, or a 5xx (D11)."""
        if self.kind == "answered":
            return self.status_code is not None and self.status_code >= 500
        return self.kind != "interrupted"
