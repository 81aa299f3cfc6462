"""API keys."""

from collections.abc import Sequence

from dispatcher.client.calls import build, read
from dispatcher.client.calls.build import Moment
from dispatcher.client.results import Key, NewKey
from dispatcher.client.transport import Call
from dispatcher.wire import Page


def keys(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Key]]:
    """Every API key, without the keys themselves."""
    return build.get(read.page(Key), "keys", params=build.paging(cursor, limit))


def create_key(
    scopes: Sequence[str],
    *,
    tenant: str | None = None,
    label: str = "",
    expires: Moment | None = None,
    networks: Sequence[str] = (),
    destinations: Sequence[str] = (),
    rate_per_second: float | None = None,
    reason: str | None = None,
) -> Call[NewKey]:
    """Make a key with these scopes (`submit`, `read`, `operate`, `admin`): for `tenant`, or with
    None another of the kind that asks (a platform's key makes a platform key). The answer is the
    only time the key is shown.

    It is good until `expires` (a time, or seconds from now), from `networks` (CIDRs), for submits
    to `destinations` (registered names, servers), and for `rate_per_second` requests; what is left
    out is as with the key that asks."""
    fields = {
        "scopes": list(scopes),
        "label": label,
        "tenant": tenant,
        "expiresAt": build.moment(expires),
        "networks": list(networks) or None,
        "destinations": list(destinations) or None,
        "ratePerSecond": rate_per_second,
    }
    return build.post(read.json(NewKey), "keys", fields=build.given(fields), reason=reason)


def rotate_key(
    id: str,
    *,
    overlap_s: float | None = None,
    force: bool = False,
    expires: Moment | None = None,
    reason: str | None = None,
) -> Call[NewKey]:
    """Give a key a new text, which the answer alone shows; the text before is good for `overlap_s`
    more (default a day). `expires` (a time, or seconds from now) is its new end. Raises NotFound,
    and Conflict while an earlier overlap lasts, unless `force`, which ends that one."""
    fields = {"overlap": overlap_s, "force": force or None, "expiresAt": build.moment(expires)}
    return build.post(
        read.json(NewKey), "keys", id, "rotate", fields=build.given(fields), reason=reason
    )


def revoke_key(id: str, *, reason: str | None = None) -> Call[None]:
    """Make a key worthless at once. Raises NotFound."""
    return build.delete("keys", id, reason=reason)
