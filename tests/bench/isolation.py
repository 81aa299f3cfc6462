"""Part 7: what one tenant, or a stranger, costs another tenant: an attack for each thing that all
share. What only holds must cost nothing measurable; who takes more than his part of the processor
must leave the others theirs, as many equal ones would."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from typing import Any, Final

from dispatcher.settings import Settings
from tests.bench import figures
from tests.bench.attack import BUSY, HOLDS, Target
from tests.bench.bench import DESTINATIONS, Bench
from tests.bench.figures import Figures
from tests.bench.paced import Paced
from tests.bench.payload import Submits
from tests.bench.process import ROOT, Dispatcher
from tests.bench.sink import SILENT

RATE_PER_S: Final = 100
EQUAL: Final = 16  # tenants that make the same load in equal parts
_SILENT_SERVERS: Final = 120
_VICTIM: Final = {"Postback-Tenant": "victim"}
_ATTACKERS: Final = {"slots": 2}  # how many tenants it takes; else one
_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "storage": {"storage_bytes_max": 64 << 20, "storage_reserve_bytes": 0},
}
# As much smaller as the attacks are.
_SHARED: Final = ("slots", "in_flight_bytes_max", "connections_max")
_HOLDS_S: Final = 60.0
_ENDS_S: Final = 20.0


async def measure(bench: Bench, store: str) -> Figures:
    """Each attack on a fresh dispatcher with a fresh database: without, beside it, and where the
    attack is one of work, beside the same work of many tenants."""
    found: Figures = {"ratePerSecond": RATE_PER_S, "equalTenants": EQUAL}
    for name in bench.options.attacks:
        rounds = [await _round(bench, store, name, n) for n in range(bench.options.rounds)]
        found[name] = {
            key: _medians([one[key] for one in rounds])
            for key in ("without", "beside", "equal")
            if key in rounds[0]
        }
    return found


def _medians(runs: list[Figures]) -> Figures:
    if any("failed" in run for run in runs):
        return next(run for run in runs if "failed" in run)
    did = runs[0].get("did")
    merged = figures.medians([{k: v for k, v in run.items() if k != "did"} for run in runs])
    return merged if did is None else merged | {"did": did}


async def _round(bench: Bench, store: str, name: str, n: int) -> dict[str, Figures]:
    """One round: with one attacker, and with equal ones where that says something."""
    found: dict[str, Figures] = {}
    async with _dispatcher(bench, store, f"{name}-{n}", name) as dispatcher:
        found["without"] = await _victim(bench, dispatcher, name)
        found["beside"] = await _beside(bench, dispatcher, name)
    if name in BUSY and name != "keys":  # strangers are nobody's tenants
        async with _dispatcher(bench, store, f"{name}-equal-{n}", name) as dispatcher:
            await _victim(bench, dispatcher, name)
            found["equal"] = await _beside(bench, dispatcher, name, equal=True)
    return found


@asynccontextmanager
async def _dispatcher(
    bench: Bench, store: str, database: str, name: str
) -> AsyncIterator[Dispatcher]:
    scale = bench.options.attack_scale
    usual = Settings()
    shared = {of: round(getattr(usual, of) * scale) for of in _SHARED} if scale < 1 else {}
    settings: dict[str, Any] = shared | _SETTINGS.get(name, {})
    async with bench.running(f"isolation-{database}", store, **settings) as dispatcher:
        yield dispatcher


async def _beside(
    bench: Bench, dispatcher: Dispatcher, name: str, *, equal: bool = False
) -> Figures:
    """What the victim sees beside one attack, or beside several joined by `+`."""
    did: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        attacks = []
        for one in name.split("+"):
            count = EQUAL if equal else _ATTACKERS.get(one, 1)
            target = Target(
                url=dispatcher.url,
                tenants=[f"{one}-{n}" for n in range(count)],
                silent=bench.sink.urls(_SILENT_SERVERS, SILENT),
                scale=bench.options.attack_scale,
            )
            attacks.append(stack.enter_async_context(_attacking(one, target, did)))
        await asyncio.gather(*attacks)
        found = await _victim(bench, dispatcher, name)
    return found | {"did": did}


async def _victim(bench: Bench, dispatcher: Dispatcher, name: str) -> Figures:
    """What the victim sees at its steady rate; `failed` where it was refused or nothing came."""
    urls = bench.sink.urls(DESTINATIONS)
    if "names" in name.split("+"):  # see `tests.bench.child`: these look-ups are answered
        urls = [url.replace("127.0.0.1", f"n{n}.here.test") for n, url in enumerate(urls)]
    submits = Submits(dispatcher.url, urls, headers=_VICTIM)
    try:
        warm_up = Paced(submits, bench.sink, bench.numbers, drain_s=_HOLDS_S / 2)
        await warm_up.run(rate=RATE_PER_S, seconds=bench.options.warm_up)
        paced = Paced(submits, bench.sink, bench.numbers, drain_s=_HOLDS_S / 2)
        samples = await paced.run(rate=RATE_PER_S, seconds=bench.options.seconds)
    except RuntimeError as error:
        return {"failed": str(error)[:200]}
    return figures.latency(samples)


@asynccontextmanager
async def _attacking(name: str, target: Target, did: dict[str, int]) -> AsyncIterator[None]:
    """An attack that holds, until the end of the block; `did` tells then what it did."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.attack", name), stdin=PIPE, stdout=PIPE, cwd=ROOT
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("an attack is spoken to through pipes")
        process.stdin.write(json.dumps(asdict(target)).encode() + b"\n")
        with suppress(TimeoutError):
            async with asyncio.timeout(_HOLDS_S):
                if (await process.stdout.readline()).decode().strip() != HOLDS:
                    raise RuntimeError(f"the attack {name} failed")
        yield
    finally:
        did |= await _ended(process)


async def _ended(process: Process) -> dict[str, int]:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_ENDS_S):
            rest, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return {}
    lines = rest.decode().splitlines()
    found: dict[str, int] = json.loads(lines[-1]) if lines else {}
    return found
