"""Cerebrium's routes: a function is called by its project and its app, and its answer is awaited or
forwarded; and runs are listed as that platform's own tools read them.

The app's endpoint is called `{project}-{app}`, or `{app}` for all projects: a project is a part of
a path, and no customer.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from msgspec import field
from starlette.responses import Response
from starlette.types import Scope as Asgi

from dispatcher import ids
from dispatcher.api import inputs, job_headers, job_views, outputs
from dispatcher.api.call import LIMIT_MAX, Call, Context, after, cursor_after
from dispatcher.api.callbacks import Limit
from dispatcher.api.dialects import shared
from dispatcher.api.errors import RETRY_SOON_S, ApiError
from dispatcher.api.inputs import Received
from dispatcher.api.job_submits import ERROR_CHARS_MAX
from dispatcher.api.json import JSON, encode, respond
from dispatcher.api.manner import Manner
from dispatcher.api.route import Operation, Parameter
from dispatcher.dialects import cerebrium
from dispatcher.dialects.snapshot import Snapshot
from dispatcher.gateway.intake import JobSubmission, UnknownEndpoint
from dispatcher.intake import Invalid
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.rules import FUNCTION
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.values import Job, SubmittedJob
from dispatcher.store.errors import NotFound, StoreError
from dispatcher.wire import View
from receiver.base import log
from receiver.base.clock import iso
from receiver.base.completion import HEADER_CHARS_MAX
from receiver.base.http import Disconnected, invalid, number
from receiver.signature import text_key

_LOG: Final = log.get("dispatcher.api")
MANNER: Final = Manner(request_id="job")
RUNS: Final = "/v2/projects/{project}/apps/{app}/runs"
_SINGLE: Final = (b"x-webhook-secret",)
_FUNCTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BOOLEANS: Final[Mapping[str, bool]] = {"true": True, "false": False}
_LIMIT: Final = 50
# So often a page is looked for among runs that are not asked for; one that is short names the next.
_LOOKS_MAX: Final = 20
_STATUS_MAX: Final = 599
_WAIT_S_MAX: Final = 60 * 86_400.0  # a queue timeout and a run limit are shorter together
_ASYNC: Final = Parameter(
    name="async",
    about="`true`: answered at once, with the id of the run.",
    type=bool,
)
_WEBHOOK: Final = Parameter(
    name="webhookEndpoint",
    about="Where the function's answer is sent on to, body and type as they are.",
)
_SECRET: Final = Parameter(
    name="X-Webhook-Secret",
    where="header",
    about="Signs what is sent on, beside our own signature: `X-Cerebrium-Webhook-Signature`.",
)
_KEY: Final = next(one for one in job_headers.PARAMETERS if one.name == "Idempotency-Key")
_SUBMIT_ERRORS: Final = (
    "NOT_FOUND",
    "IDEMPOTENCY_CONFLICT",
    "DESTINATION_DISABLED",
    "PAYLOAD_TOO_LARGE",
    "QUEUE_FULL",
    "RATE_LIMITED",
    "STORAGE_LIMIT_EXCEEDED",
    "LIMIT_REACHED",
    "TENANT_ERASING",
    "KEYS_REQUIRED",
    "TOO_MANY_WAITING",
    "JOB_CANCELLED",
    "JOB_FAILED",
    "JOB_TIMEOUT",
    "PAYLOAD_GONE",
    "CANNOT_UNSEAL",
)


class AcceptedRunView(View, frozen=True, kw_only=True):
    """The run is on disk, and has begun or waits."""

    run_id: str = field(name="run_id")


class RunView(View, frozen=True, kw_only=True):
    """A run. `status` is that of the call that was made for it: `success`, `failure`, `cancelled`
    or its code in digits; until then `queued` or `running`. Times in `…Ms` are milliseconds."""

    id: str
    is_async: bool = field(name="async")
    function_name: str
    method: str
    project_id: str
    model_id: str
    status: str
    created_at: str
    updated_at: str
    queue_time_ms: float
    runtime_ms: float
    response_time_ms: float
    total_queue_time_ms: int
    execution_time_ms: int
    total_response_time_ms: int
    webhook_endpoint: str
    websocket: bool
    status_code: int | None = None
    completed_at: str | None = None


class RunsView(View, frozen=True, kw_only=True):
    """Runs, newest first. `nextToken` is empty at the end."""

    items: list[RunView]
    next_token: str


class RunItemView(View, frozen=True, kw_only=True):
    """One run."""

    item: RunView


def _refused(context: Context, asgi: Asgi, code: str) -> None:
    """Count a refusal, by endpoints that there are: what is asked for may be anything."""
    path = asgi.get("path_params", {})
    app = path.get("app", "")
    for name in (f"{path.get('project', '')}-{app}", app):
        if context.gateway.book.find(name) is not None:
            context.metrics.job_refused(name, code)
            return


@Operation(
    "POST",
    "/v4/{project}/{app}/{function}",
    tag="cerebrium",
    scope="submit",
    refused=_refused,
    media=("*/*",),
    parameters=(_ASYNC, _WEBHOOK, _SECRET, _KEY),
    responses={202: AcceptedRunView, 200: "*/*"},
    errors=_SUBMIT_ERRORS,
    manner=MANNER,
)
async def run(call: Call) -> Response:
    """Call a function.

    The body goes to it byte for byte. With `async=true` the answer is 202 and the run's id, which
    `X-Request-Id` is too. Else it is the function's own: its status, its type and its body; who
    hangs up before cancels the run, unless the endpoint says otherwise.
    """
    call.request.check_single(_SINGLE)
    is_async = _boolean(call, "async")
    name, rules = _endpoint(call, call.path["project"], call.path["app"])
    _check_function(call.path["function"], rules)
    if not is_async:
        return await _awaited(call, name, rules)
    async with inputs.received(call, rules) as given:
        taken = await _accept(call, _submission(call, name, rules, given, sync=False))
    run_id = ids.spelled(taken.id, "cerebrium")
    project, app = call.path["project"], call.path["app"]
    listed = RUNS.format(project=project, app=f"{project}-{app}")
    headers = {"Location": f"{listed}/{run_id}", "Retry-After": str(RETRY_SOON_S)}
    return Response(encode(AcceptedRunView(run_id=run_id)) + b"\n", 202, headers, JSON)


@Operation(
    "GET",
    RUNS,
    tag="cerebrium",
    scope="read",
    parameters=(
        Parameter(name="asyncOnly", about="`true`: only runs that nobody waited for.", type=bool),
        Parameter(name="nextToken", about="The `nextToken` of the page before."),
        Parameter(name="limit", about="How many: 1 to 500, 50 by default.", type=Limit),
    ),
    responses={200: RunsView},
    errors=("NOT_FOUND", "CANNOT_UNSEAL"),
    manner=MANNER,
)
async def runs(call: Call) -> Response:
    """List the runs of an app.

    Newest first. `{app}` is `{project}-{app}`, as that platform names it.
    """
    async_only = _boolean(call, "asyncOnly")
    name = _endpoint_of_app(call)
    about = f"runs\0{call.tenant}\0{name}\0{async_only}"
    limit = number(call.query, "limit", max=LIMIT_MAX) or _LIMIT
    last = after(call.query.get("nextToken"), about, field="nextToken")
    found: list[Job] = []
    for _ in range(_LOOKS_MAX):
        page = await call.context.store.jobs.search(
            call.tenant, JobFilter(endpoint=name), after=last, limit=limit - len(found)
        )
        found += [job for job in page.jobs if not (async_only and job.options.sync)]
        last = page.next_id
        if last is None or len(found) >= limit:
            break
    items = [await _view(call, job) for job in found]
    return respond(RunsView(items=items, next_token=cursor_after(last, about) or ""))


@Operation(
    "GET",
    f"{RUNS}/{{id}}",
    tag="cerebrium",
    scope="read",
    responses={200: RunItemView},
    errors=("NOT_FOUND", "CANNOT_UNSEAL"),
    manner=MANNER,
)
async def show(call: Call) -> Response:
    """Show a run.

    Also where its app's endpoint was removed since, or another one has its project's name now.
    """
    id, names = ids.parse_job_id(call.path["id"]), _names_of_app(call)
    job = None
    if id is not None:
        with suppress(NotFound):
            job = await call.context.store.jobs.get(call.tenant, id, output=False)
    if job is None or job.endpoint not in names:
        raise NotFound(f"there is no run {call.path['id']}")
    return respond(RunItemView(item=await _view(call, job)))


# --- what is asked for ---


def _boolean(call: Call, name: str) -> bool:
    """Return a parameter that is true or false, in whatever case. Raises Refusal (422)."""
    text = call.query.get(name)
    if text is None:
        return False
    if text.lower() not in _BOOLEANS:
        raise invalid(name, text, "must be true or false")
    return _BOOLEANS[text.lower()]


def _endpoint(call: Call, project: str, app: str) -> tuple[str, EndpointRules]:
    """Return the endpoint of an app, and its rules. Raises UnknownEndpoint."""
    own = f"{project}-{app}"
    with suppress(UnknownEndpoint):
        return own, call.context.job_intake.rules(call.tenant, own)
    with suppress(UnknownEndpoint):
        return app, call.context.job_intake.rules(call.tenant, app)
    raise UnknownEndpoint(own)


def _endpoint_of_app(call: Call) -> str:
    """Return the endpoint that a listing's path names. Raises UnknownEndpoint."""
    _, app = _names_of_app(call)
    name, _ = _endpoint(call, call.path["project"], app)
    return name


def _names_of_app(call: Call) -> tuple[str, str]:
    """Return the names that the endpoint of a path's app may have, its project's own first. Raises
    UnknownEndpoint."""
    named, prefix = call.path["app"], f"{call.path['project']}-"
    if not named.startswith(prefix):
        raise UnknownEndpoint(named)
    return named, named.removeprefix(prefix)


def _check_function(name: str, rules: EndpointRules) -> None:
    """Raise ApiError for a function that there is not."""
    if not _FUNCTION.fullmatch(name) or (FUNCTION not in rules.url and name not in rules.functions):
        raise ApiError("NOT_FOUND", f"there is no function {name}")


def _submission(
    call: Call, name: str, rules: EndpointRules, given: Received, *, sync: bool
) -> JobSubmission:
    """Return the job that a request makes. Raises Refusal."""
    told = "webhookEndpoint" in call.query or rules.callback.destination is not None
    return JobSubmission(
        endpoint=name,
        body=given.body,
        id=given.id,
        blob=given.blob,
        content_type=call.header(b"content-type") or JSON,
        dialect="cerebrium",
        function=call.path["function"],
        headers=job_headers.passed(call),
        callback_url=call.query.get("webhookEndpoint"),
        idempotency_key=job_headers.idempotency_key(call),
        sync=sync,
        secret=_webhook_secret(call, told=told),
    )


async def _accept(call: Call, submission: JobSubmission) -> SubmittedJob:
    """Store a job. Raises what becomes an error response, in the dialect's own words."""
    try:
        return await shared.accept(call, submission)
    except Invalid as error:
        if error.field != "callbackUrl":
            raise
        raise Invalid("webhookEndpoint", error.value, error.reason) from None


def _webhook_secret(call: Call, *, told: bool) -> str | None:
    """Return what signs the callback beside our own signature, if there is to be one. Raises
    Refusal (422), which never shows it."""
    given = call.header(b"x-webhook-secret")
    if given is None:
        return None
    try:
        secret = given.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise invalid("X-Webhook-Secret", None, "must be UTF-8") from None
    if len(secret) > HEADER_CHARS_MAX or not secret.isprintable() or not _is_key(secret):
        reason = f"must be 1 to {HEADER_CHARS_MAX} characters, and no controls"
        raise invalid("X-Webhook-Secret", None, reason)
    return secret if told else None


def _is_key(secret: str) -> bool:
    """Whether receivers take it for a secret."""
    try:
        return bool(text_key(secret))
    except ValueError:
        return False


# --- whoever waits for the answer ---


async def _awaited(call: Call, name: str, rules: EndpointRules) -> Response:
    """Take a job and return what came of it. Its caller holds a place from before it is stored: who
    is turned away has nothing run."""
    waiters = call.context.gateway.waiters
    with waiters.place(call.tenant) as held:
        if not held:
            raise _no_room("as many requests wait as may be held")
        async with inputs.received(call, rules) as given:
            taken = await _accept(call, _submission(call, name, rules, given, sync=True))
        call.bodies.give_back(call.request)  # nobody's input is held while somebody waits
        ended = taken.state in FINAL
        while True:
            try:
                ended = ended or await call.request.while_there(
                    waiters.wait_in_place(taken.id, _WAIT_S_MAX)
                )
            except Disconnected:
                await _give_up(call, taken)
                raise
            if not ended:
                await _give_up(call, taken)
                raise _no_room("the service is about to stop")
            job = await call.context.store.jobs.get(call.tenant, taken.id, output=True)
            if job.state in FINAL:
                return await _answer(call, job)
            ended = False  # somebody has it run again


def _no_room(why: str) -> ApiError:
    message = f"{why}; ask with async=true, or try again soon"
    return ApiError("TOO_MANY_WAITING", message, headers={"Retry-After": str(RETRY_SOON_S)})


async def _give_up(call: Call, taken: SubmittedJob) -> None:
    """Cancel a job whose answer nobody will get, where its endpoint wants that. One that another
    request had submitted is that one's."""
    endpoint = call.context.gateway.book.find(taken.endpoint)
    if taken.duplicate or (endpoint is not None and endpoint.rules.on_disconnect == "keep"):
        return
    try:
        await call.context.gateway.engine.cancel(call.tenant, taken.id, reason="disconnected")
    except StoreError as error:
        _LOG.warning("cannot cancel a run", id=call.request.id, reason=str(error))


async def _answer(call: Call, job: Job) -> Response:
    """Return what the upstream answered, or the error of an end that was none of its making."""
    shown = await shared.snapshot(call, job, "cerebrium")
    end = shown.end
    if end is not None and (job.state == "completed" or job.reason == "rejected"):
        job_views.check_output(job, "cerebrium")
        if job.status_code is not None and 200 <= job.status_code <= _STATUS_MAX:
            return await _as_it_is(call, job, job.status_code)
    said = cerebrium.error(shown)
    details: Any = said["details"]
    message, code = str(said["message"])[:ERROR_CHARS_MAX], str(said["error"])
    raise ApiError(code, message, details=details)


async def _as_it_is(call: Call, job: Job, status: int) -> Response:
    if job.output is None:
        return Response(status_code=status)
    kept = {name: value for name, value in job.output.headers if name != "x-request-id"}
    headers = {"Content-Type": job.output.content_type, "X-Content-Type-Options": "nosniff", **kept}
    return await outputs.sent(call, job.output, status, headers)


# --- runs ---


async def _view(call: Call, job: Job) -> RunView:
    """Return a run of the app that the path names."""
    shown = await shared.snapshot(call, job, "cerebrium")
    waited_ms = max(0, (job.started_ms or shown.at_ms) - job.queued_ms)
    took_ms = max(0, shown.at_ms - job.queued_ms)
    ran_ms = 0 if job.started_ms is None else shown.ran_ms
    target = job.options.callback
    return RunView(
        id=shown.id,
        is_async=not job.options.sync,
        function_name=job.options.function or "",
        method="POST",
        project_id=call.path["project"],
        model_id=call.path["app"],
        status=cerebrium.status(shown),
        status_code=None if shown.end is None else cerebrium.status_code(shown.end),
        created_at=iso(job.created_ms),
        updated_at=iso(_changed_ms(job, shown)),
        completed_at=None if shown.end is None else iso(shown.at_ms),
        queue_time_ms=float(waited_ms),
        runtime_ms=float(ran_ms),
        response_time_ms=float(took_ms),
        total_queue_time_ms=waited_ms,
        execution_time_ms=ran_ms,
        total_response_time_ms=took_ms,
        webhook_endpoint="" if target is None else target.url or "",
        websocket=False,
    )


def _changed_ms(job: Job, shown: Snapshot) -> int:
    return shown.at_ms if shown.end is not None else job.started_ms or job.queued_ms


SUBMITS: Final = (run,)
OPERATIONS: Final = (*SUBMITS, runs, show)
