"""Destinations: where callbacks go."""

from collections.abc import Mapping
from typing import Any

from dispatcher.client.calls import build, read
from dispatcher.client.calls.build import Policy
from dispatcher.client.results import Attempt, Destination, Registered
from dispatcher.client.transport import Call
from dispatcher.wire import Page


def destinations(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Destination]]:
    """Every destination, in the order of their ids."""
    return build.get(read.page(Destination), "destinations", params=build.paging(cursor, limit))


def destinations_of(url: str) -> Call[Page[Destination]]:
    """Return the destination that callbacks to a URL go to: its server, where that is known."""
    return build.get(read.page(Destination), "destinations", params=(("url", url),))


def get_destination(id: str) -> Call[Destination]:
    """One destination, by id or registered name. Raises NotFound."""
    return build.get(read.json(Destination), "destinations", id)


def register_destination(
    name: str,
    url: str,
    *,
    secret: str | None = None,
    policy: Policy | None = None,
    headers: Mapping[str, str] | None = None,
    concurrency: int | None = None,
    rate_per_second: float | None = None,
    reason: str | None = None,
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
    return build.post(
        read.json(Registered), "destinations", fields=build.given(fields), reason=reason
    )


def change_destination(
    id: str, changes: Mapping[str, Any], *, reason: str | None = None
) -> Call[Destination]:
    """Change the named fields, as `PATCH` takes them: `url policy headers paused disabled
    concurrency ratePerSecond`; None puts one back to its default. Raises NotFound and
    ValidationFailed."""
    return build.patch(read.json(Destination), "destinations", id, fields=changes, reason=reason)


def remove_destination(id: str, *, reason: str | None = None) -> Call[None]:
    """Forget it and its secret; its backlog is made dead. Raises NotFound."""
    return build.delete("destinations", id, reason=reason)


def test_destination(
    id: str,
    *,
    url: str | None = None,  # noqa: PT028 - a call
    reason: str | None = None,  # noqa: PT028
) -> Call[Attempt]:
    """Send a signed test callback now; its attempt. For a destination without a name `url` is one
    of its server, else the one used last. Raises NotFound."""
    fields = build.given({"url": url}) or None
    return build.post(read.json(Attempt), "destinations", id, "test", fields=fields, reason=reason)
