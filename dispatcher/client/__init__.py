"""The Python client: hand callbacks over, find them, replay them.

from dispatcher.client import Client

with Client("http://127.0.0.1:8600", api_key) as client:
    done = client.submit("job_1", {"status": "completed"}, callback_url="https://…/webhooks")
    client.wait(done.id)
"""

from receiver.base.extras import explained

try:
    import httpx as _httpx  # noqa: F401 - to say what is missing before anything else does
    import msgspec as _msgspec  # noqa: F401
except ModuleNotFoundError as error:
    raise explained(error, "client") from None

from dispatcher.client.aio import AsyncClient
from dispatcher.client.calls.callback import Filters
from dispatcher.client.calls.job import JobFilters
from dispatcher.client.calls.submission import LineResult, Submission
from dispatcher.client.calls.tenant import AuditFilters
from dispatcher.client.errors import (
    BadAnswer,
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    InputGone,
    JobCancelled,
    JobFailed,
    JobTimeout,
    NotFound,
    OutputGone,
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
    Failure,
    Failures,
    Job,
    JobAttempt,
    JobEvent,
    Key,
    Load,
    MadeEndpoint,
    NewKey,
    Payload,
    Preview,
    Purged,
    Reencryption,
    Registered,
    Replay,
    RevealedEndpointSecret,
    RevealedSecret,
    Secret,
    ServiceInfo,
    Stats,
    StoredSecret,
    Submitted,
    SubmittedJob,
    Sweep,
    SweepPreview,
    Tenant,
    TenantDetail,
    UpstreamTest,
    Usage,
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
    "Failure",
    "Failures",
    "Filters",
    "Forbidden",
    "Gone",
    "InputGone",
    "Job",
    "JobAttempt",
    "JobCancelled",
    "JobEvent",
    "JobFailed",
    "JobFilters",
    "JobTimeout",
    "Key",
    "LineResult",
    "Load",
    "MadeEndpoint",
    "NewKey",
    "NotFound",
    "OutputGone",
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
    "RevealedEndpointSecret",
    "RevealedSecret",
    "Secret",
    "ServiceInfo",
    "Stats",
    "StorageFull",
    "StoredSecret",
    "Submission",
    "Submitted",
    "SubmittedJob",
    "Sweep",
    "SweepPreview",
    "Tenant",
    "TenantDetail",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "UpstreamTest",
    "Usage",
    "ValidationFailed",
    "WaitTimeout",
]
