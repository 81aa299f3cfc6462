"""What requests may hold: the types that validate them, and that the OpenAPI document shows.

Unknown fields are refused everywhere, so that a misspelt one is noticed.
"""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dispatcher.values import Priority

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
URL_CHARS_MAX: Final = 2_048
TAGS_MAX: Final = 16
RATE_MAX: Final = 10_000
CONCURRENCY_MAX: Final = 65_536

JobId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="The platform's id of the finished job.",
        examples=["job_1234567890abcdef"],
    ),
]
JobStatus = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="The job's own status; by default `payload.status` where that is a string.",
        examples=["completed"],
    ),
]
Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=URL_CHARS_MAX,
        description="http or https, to an address that deliveries may reach.",
        examples=["https://example.com/webhooks/job-complete"],
    ),
]
Name = Annotated[
    str, Meta(pattern=NAME, description="A registered destination's name.", examples=["billing"])
]
TagKey = Annotated[str, Meta(min_length=1, max_length=64)]
TagValue = Annotated[str, Meta(max_length=256)]
Tags = Annotated[
    dict[TagKey, TagValue],
    Meta(max_length=TAGS_MAX, description="To find it by.", examples=[{"userId": "user_123"}]),
]
CustomHeaders = Annotated[
    dict[str, str],
    Meta(
        max_length=16,
        description="Added to each delivery; never ones that frame the message, belong to the "
        "connection or are set by the dispatcher.",
    ),
]
Seconds = Annotated[float, Meta(ge=0, le=604_800)]
AckCode = Annotated[int, Meta(ge=200, le=599)]
Rate = Annotated[float, Meta(gt=0, le=RATE_MAX, description="Deliveries a second.")]
Concurrency = Annotated[
    int, Meta(ge=1, le=CONCURRENCY_MAX, description="Most attempts in flight at once.")
]
PresetName = Literal["exponential", "standard-webhooks", "runpod", "cerebrium"]
Scope = Literal["submit", "read", "operate", "admin"]
Scopes = Annotated[list[Scope], Meta(min_length=1, max_length=4)]
Secret = Annotated[
    str,
    Meta(
        max_length=200,
        description="`whsec_` and the base64 of 24 to 64 bytes; made when it is not given.",
    ),
]


class Shape(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The ground of all requests: frozen, camelCase, no unknown fields."""


class Exponential(Shape, frozen=True, kw_only=True):
    """Waits of `base * factor ** (n - 1)` seconds after try n, at most `cap`."""

    base: Annotated[float, Meta(gt=0, le=604_800)]
    factor: Annotated[float, Meta(gt=0, le=100)]
    cap: Annotated[float, Meta(gt=0, le=604_800)]


class PolicyShape(Shape, frozen=True, kw_only=True):
    """How a delivery is tried; all times in seconds. Give `delays` or `exponential`, or neither
    for the default schedule."""

    attempts: Annotated[int, Meta(ge=1, le=50)]
    delays: (
        Annotated[
            list[Seconds],
            Meta(min_length=1, max_length=50, description="Waits; the last one repeats."),
        ]
        | UnsetType
    ) = UNSET
    exponential: Exponential | UnsetType = UNSET
    jitter: Annotated[float, Meta(ge=0, le=1, description="0.2 spreads waits by ±20 %.")] = 0.2
    timeout: Annotated[float, Meta(ge=0.1, le=60, description="Of one attempt.")] = 15.0
    acknowledge: Literal["2xx"] | Annotated[list[AckCode], Meta(min_length=1, max_length=20)] = (
        "2xx"
    )
    max_age: Annotated[float, Meta(ge=1, le=2_592_000)] = 604_800.0


PolicyChoice = PresetName | PolicyShape


class Submit(Shape, frozen=True, kw_only=True):
    """A finished job's callback. `payload` is delivered byte for byte as it stands here."""

    job_id: JobId
    payload: Annotated[Raw, Meta(description="Any JSON.")]
    callback_url: Url | None = None
    destination: Name | None = None
    job_status: JobStatus | None = None
    priority: Priority = "normal"
    tags: Tags = {}
    policy: PolicyChoice | None = None
    headers: CustomHeaders | None = None


class BatchLine(Submit, frozen=True, kw_only=True):
    """One line of a batch: a submit, with its idempotency key inside."""

    idempotency_key: (
        Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,255}$", description="1 to 255 visible ASCII.")]
        | None
    ) = None


class ReplayRequest(Shape, frozen=True, kw_only=True):
    """Which callbacks to replay. Where the filter names no status, only dead ones match."""

    filter: Annotated[
        dict[str, str],
        Meta(
            min_length=1,
            max_length=16,
            description="The listing's filters.",
            examples=[{"status": "dead", "tag.team": "a", "since": "2026-01-31T12:00:00Z"}],
        ),
    ]
    dry_run: bool = False
    rate_per_second: Rate | None = None


class Register(Shape, frozen=True, kw_only=True):
    """A destination to be known by name."""

    name: Name
    url: Url
    secret: Secret | None = None
    policy: PolicyChoice | None = None
    headers: CustomHeaders | None = None
    concurrency: Concurrency | None = None
    rate_per_second: Rate | None = None


class DestinationChange(Shape, frozen=True, kw_only=True):
    """The fields to change; null puts a limit, the policy or the headers back to the default."""

    url: Url | UnsetType = UNSET
    policy: PolicyChoice | UnsetType | None = UNSET
    headers: CustomHeaders | UnsetType | None = UNSET
    concurrency: Concurrency | UnsetType | None = UNSET
    rate_per_second: Rate | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class NewKey(Shape, frozen=True, kw_only=True):
    """An API key to make. `tenant` null makes a platform key; left out, it is the tenant that
    the request is about."""

    scopes: Scopes
    tenant: Annotated[str, Meta(pattern=NAME)] | UnsetType | None = UNSET
    label: Annotated[str, Meta(max_length=100)] = ""


class Rotate(Shape, frozen=True, kw_only=True):
    """A rotation of the tenant's signing secret, or of one registered destination's."""

    destination: str | None = None
    secret: Secret | None = None
    overlap: (
        Annotated[
            float,
            Meta(ge=0, le=2_592_000, description="Seconds the old secret signs on."),
        ]
        | None
    ) = None
    force: Annotated[bool, Meta(description="End an earlier rotation's overlap at once.")] = False


class Reveal(Shape, frozen=True, kw_only=True):
    """Which secret to show: one by id, or the current one of a destination or of the tenant."""

    id: str | None = None
    destination: str | None = None
