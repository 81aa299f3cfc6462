"""What a cog server tells of the predictions that jobs are to it, by the URL of a job's end."""

from typing import Final

from dispatcher.api.call import Call
from dispatcher.gateway.by_url import Told
from dispatcher.jobs.tokens import Grant
from dispatcher.jobs.values import JobByUrl, JobVerdict, Output
from dispatcher.sending import kinds
from dispatcher.sending.kinds import Prediction
from receiver.base.http import Refusal, invalid

_AROUND_BYTES: Final = 8 * 1024 * 1024
"""What may stand around an output: its log, of the most."""
_TOO_LARGE: Final = "PAYLOAD_TOO_LARGE"


async def of(call: Call, grant: Grant, one: JobByUrl | None) -> JobByUrl | None:
    """Return the job that a grant is about where its upstream is a cog server, None elsewhere. One
    that was called again since, by another process, attached to what it had begun: so a word that
    was given to its earlier claim is as good."""
    by_url = call.context.gateway.engine.by_url
    if one is None:
        claim = await call.context.store.jobs.claim_of(grant.job, grant.run)
        one = None if claim is None else await by_url.running(grant.job, claim)
    if one is None or by_url.rules(one.job.endpoint).kind != "cog":
        return None
    return one


async def read(call: Call, one: JobByUrl) -> Prediction:
    """Return what it says now. Raises Refusal for what is no prediction."""
    bytes_max = call.context.gateway.engine.by_url.rules(one.job.endpoint).output_max
    try:
        body = await call.body(bytes_max + _AROUND_BYTES)
    except Refusal as refusal:
        if refusal.code != _TOO_LARGE:
            raise
        return _too_large(bytes_max)
    found = kinds.prediction_of(body)
    if found is None:
        raise invalid("body", None, "must be a prediction, as cog servers tell of them")
    return _too_large(bytes_max) if len(found.output.body) > bytes_max else found


def _too_large(bytes_max: int) -> Prediction:
    error = f"the output has more than the endpoint's `output_max`, {bytes_max} bytes"
    output = Output(body=error.encode(), content_type="text/plain; charset=utf-8")
    return Prediction(state="failed", output=output, is_too_large=True)


async def end(call: Call, one: JobByUrl, said: Prediction) -> None:
    """End the job as was said, unless it has ended, or runs anew."""
    verdict = None
    if said.is_too_large:
        verdict = JobVerdict(state="failed", reason="output_too_large")
    told: Told = "completed" if said.state == "completed" else "failed"
    by_url = call.context.gateway.engine.by_url
    await by_url.complete(one, told, said.output, verdict=verdict)
