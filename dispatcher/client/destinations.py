"""The calls about destinations: their limits, their health, their backlog."""

import json
from collections.abc import Mapping
from typing import Any

from dispatcher.client.call import JSON, Call, paging, path
from dispatcher.client.callbacks import Policy
from dispatcher.client.read import as_json, as_nothing, as_page
from dispatcher.client.results import Attempt, Destination, Page, Registered


def destinations(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Destination]]:
    """Every destination, in the order of their ids."""
    return Call(
        method="GET",
        path=path("destinations"),
        read=as_page(Destination),
        repeatable=True,
        params=paging(cursor, limit),
    )


def get_destination(id: str) -> Call[Destination]:
    """One destination, by id or registered name. Raises NotFound."""
    return Call(
        method="GET", path=path("destinations", id), read=as_json(Destination), repeatable=True
    )


def register_destination(
    name: str,
    url: str,
    *,
    secret: str | None = None,
    policy: Policy | None = None,
    headers: Mapping[str, str] | None = None,
    concurrency: int | None = None,
    rate_per_second: float | None = None,
) -> Call[Registered]:
    """Give a URL a name, limits and a signing secret of its own (made unless given). Raises
    Conflict if the name is taken."""
    fields = {
        "name": name,
        "url": url,
        "secret": secret,
        "policy": policy,
        "headers": headers,
        "concurrency": concurrency,
        "ratePerSecond": rate_per_second,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return Call(
        method="POST",
        path=path("destinations"),
        read=as_json(Registered),
        repeatable=False,
        body=json.dumps(given, default=dict).encode(),
        content_type=JSON,
    )


def change_destination(id: str, changes: Mapping[str, Any]) -> Call[Destination]:
    """Change the named fields, as `PATCH` takes them: `url policy headers paused disabled
    concurrency ratePerSecond`; None puts one back to its default. Raises NotFound and
    ValidationFailed."""
    return Call(
        method="PATCH",
        path=path("destinations", id),
        read=as_json(Destination),
        repeatable=True,
        body=json.dumps(changes).encode(),
        content_type=JSON,
    )


def remove_destination(id: str) -> Call[None]:
    """Forget it and its secret; its backlog is made dead. Raises NotFound."""
    return Call(method="DELETE", path=path("destinations", id), read=as_nothing, repeatable=False)


def test_destination(id: str) -> Call[Attempt]:
    """Send a signed test callback now; its attempt. Raises NotFound."""
    return Call(
        method="POST",
        path=path("destinations", id, "test"),
        read=as_json(Attempt),
        repeatable=False,
    )
