"""For an upstream: telling the dispatcher how far a job is, and ending it by URL.

from dispatcher.client.upstream import complete, report

report(request.headers, 40, step="rendering page 4")

The URLs come with each call, so no key is needed. On the standard library alone.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

PROGRESS_URL: Final = "X-Job-Progress-Url"
COMPLETE_URL: Final = "X-Job-Complete-Url"
TIMEOUT_S: Final = 5.0
_WAITS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_OVER: Final = (404, 409)
_JSON: Final = "application/json"
_UNSET: Final = object()
Call = Mapping[str, str] | str
"""A call's headers, or the URL itself."""


class NotTold(Exception):
    """The dispatcher could not be told, or would not hear it."""


def report(
    call: Call,
    progress: float | None = None,
    *,
    step: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    output: Any = _UNSET,
    log: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> bool:
    """Tell how far a job is; what is left out stays as it was, and with nothing it is a mere sign
    of life. `call` is the headers of its call, or their `X-Job-Progress-Url`.

    Returns False where the job does not run by this call any more, since it was cancelled for
    instance: then whatever is done for it may stop. Raises nothing where the dispatcher could not
    be told: the next report counts as well. In asynchronous code: `asyncio.to_thread(report, …)`.
    """
    url = _url(call, PROGRESS_URL)
    if url is None:
        return True
    said: dict[str, Any] = {}
    if progress is not None:
        said["progress"] = min(100.0, max(0.0, progress))
    if step is not None:
        said["currentStep"] = step
    if metadata is not None:
        said["metadata"] = metadata
    if output is not _UNSET:
        said["output"] = output
    if log is not None:
        said["log"] = log
    code, _ = _post(url, json.dumps(said).encode(), _JSON, timeout_s)
    return code not in _OVER


def complete(
    call: Call,
    output: Any = None,
    *,
    status: Literal["completed", "failed"] = "completed",
    content_type: str | None = None,
    timeout_s: float = 30.0,
) -> bool:
    """End a job with its output: bytes as they are, a text, or any value as JSON. `call` is the
    headers of its call, or their `X-Job-Complete-Url`.

    Tried for half a minute while the dispatcher cannot be reached; to say it twice does no harm.
    Returns False where the job ended otherwise, or does not run by this call any more. Raises
    NotTold.
    """
    url = _url(call, COMPLETE_URL)
    if url is None:
        raise NotTold(f"the call has no {COMPLETE_URL}")
    if isinstance(output, bytes):
        body, kind = output, "application/octet-stream"
    elif isinstance(output, str):
        body, kind = output.encode(), "text/plain; charset=utf-8"
    else:
        body, kind = json.dumps(output).encode(), _JSON
    for wait_s in (*_WAITS_S, None):
        code, why = _post(f"{url}?status={status}", body, content_type or kind, timeout_s)
        if code == 200:
            return True
        if code in _OVER:
            return False
        if wait_s is None or (code is not None and code < 500 and code != 429):
            raise NotTold(f"the dispatcher answered {code}: {why}" if code else why)
        time.sleep(wait_s)
    return False


def _url(call: Call, name: str) -> str | None:
    """Return the URL that a call came with, however its headers are spelled."""
    found: str | None
    if isinstance(call, str):
        found = call
    else:
        lowered = name.lower()
        found = next((value for key, value in call.items() if key.lower() == lowered), None)
    if found is not None and urlsplit(found).scheme not in ("http", "https"):
        raise ValueError(f"{name} is no URL")
    return found


def _post(url: str, body: bytes, content_type: str, timeout_s: float) -> tuple[int | None, str]:
    """Return the status of an answer and what it says; None for its status where there is none."""
    request = urllib.request.Request(  # noqa: S310 - `_url` takes http and https alone
        url, data=body, headers={"Content-Type": content_type}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            answer.read()
            return answer.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(2_000).decode(errors="replace")
    except OSError as error:
        return None, str(error)
