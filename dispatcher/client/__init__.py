"""The Python client: hand callbacks over, find them, replay them.

from dispatcher.client import Client

with Client("http://127.0.0.1:8600", api_key) as client:
    done = client.submit("job_1", {"status": "completed"}, callback_url="https://…/webhooks")
    client.wait(done.id)
"""

from dispatcher.client.aio import AsyncClient
from dispatcher.client.calls import AuditFilters, Filters, LineResult, Payload, Submission
from dispatcher.client.errors import (
    BadAnswer,
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    PostbackError,
    QueueFull,
    RateLimited,
    StorageFull,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unreachable,
    ValidationFailed,
    WaitTimeout,
)
from dispatcher.client.results import (
    Applied,
    Attempt,
    AuditEntry,
    Callback,
    Destination,
    Endpoint,
    Key,
    NewKey,
    Preview,
    Purged,
    Reencryption,
    Registered,
    Replay,
    RevealedSecret,
    Secret,
    Stats,
    StoredSecret,
    Submitted,
    Tenant,
    TenantDetail,
    UpstreamTest,
)
from dispatcher.client.sync import Client
from dispatcher.wire import Page

__all__ = [
    "Applied",
    "AsyncClient",
    "Attempt",
    "AuditEntry",
    "AuditFilters",
    "BadAnswer",
    "BadRequest",
    "Callback",
    "Client",
    "Conflict",
    "Destination",
    "Endpoint",
    "Filters",
    "Forbidden",
    "Gone",
    "Key",
    "LineResult",
    "NewKey",
    "NotFound",
    "Page",
    "Payload",
    "PostbackError",
    "Preview",
    "Purged",
    "QueueFull",
    "RateLimited",
    "Reencryption",
    "Registered",
    "Replay",
    "RevealedSecret",
    "Secret",
    "Stats",
    "StorageFull",
    "StoredSecret",
    "Submission",
    "Submitted",
    "Tenant",
    "TenantDetail",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "UpstreamTest",
    "ValidationFailed",
    "WaitTimeout",
]
