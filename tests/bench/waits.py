"""The waited half of part 8: how much longer a call takes that goes through the gateway, stored
before and after it, while its caller waits on the same connection."""

from itertools import count
from typing import Final

from tests.bench import figures, jobs
from tests.bench.asking import asking
from tests.bench.figures import Figures
from tests.bench.jobs import JobSubmits, Model
from tests.bench.process import Dispatcher

_WARM: Final = 20
_FIRST_NUMBER: Final = 1 << 61  # far from all others


async def measure(dispatcher: Dispatcher, model: Model, calls: int) -> Figures:
    """The same input straight to the model, and through a job, in turn."""
    numbers = count(_FIRST_NUMBER)
    direct, waited = [], []
    async with asking(dispatcher.url) as gateway, asking(model.url) as upstream:
        for _ in range(_WARM + calls):
            answer = await upstream.ask("POST", "/generate", JobSubmits.body(next(numbers)))
            direct.append(answer.seconds)
            answer = await gateway.ask(
                "POST",
                f"/v1/endpoints/{jobs.ENDPOINT}/jobs",
                JobSubmits.body(next(numbers)),
                {"Prefer": "wait=30"},
            )
            if answer.status != 200:
                raise RuntimeError(f"a job was not waited for: {answer.body!r}")
            waited.append(answer.seconds)
    direct, waited = direct[_WARM:], waited[_WARM:]
    return {
        "calls": calls,
        "directP50Ms": figures.quantile_ms(direct, 0.5),
        "directP99Ms": figures.quantile_ms(direct, 0.99),
        "waitP50Ms": figures.quantile_ms(waited, 0.5),
        "waitP99Ms": figures.quantile_ms(waited, 0.99),
    }
