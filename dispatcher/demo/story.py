"""The acts of the demonstration, each a small story with a number at its end."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import httpx

from dispatcher.client import AsyncClient, Callback, Submitted
from dispatcher.demo.customers import fulfilled
from dispatcher.demo.processes import Cast, DemoError

Say = Callable[[str], None]

_HEALTHY: Final = 30
_SLOW: Final = 12
_OUTAGE: Final = 10
_CRASH: Final = 300
_BUGGY: Final = 3
JOBS: Final = 12
DIALECTS: Final = 3
_CALLS: Final = 4  # of the model at once
_SETTLE_S: Final = 30.0
# Quick enough to watch; the default policy takes its time, up to a day and a half.
_IMPATIENT: Final = {"attempts": 20, "delays": [0.3], "jitter": 0.2}
_HOPELESS: Final = {"attempts": 2, "delays": [0.1]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished job: its id, the bytes to deliver, and tags to find it by."""

    job_id: str
    body: bytes
    tags: dict[str, str]


@dataclass(slots=True)
class Tally:
    """What went in, by customer, and what came of it."""

    submitted: dict[str, list[str]] = field(default_factory=dict)
    duplicate_submits: int = 0
    results: int = 0

    @property
    def total(self) -> int:
        """Distinct callbacks."""
        return sum(len(ids) for ids in self.submitted.values())


class Story:
    """Tells the acts in order over one cast."""

    def __init__(self, cast: Cast, client: AsyncClient, say: Say) -> None:
        self._cast = cast
        self._client = client
        self._say = say
        self._number = 0
        self.tally = Tally()

    async def tell(self) -> None:
        """All acts. Raises DemoError where one does not end as it must."""
        for act in (
            self.healthy,
            self.submitted_twice,
            self.slow_beside_healthy,
            self.outage,
            self.crash,
            self.jobs,
            self.three_dialects,
            self.delivered_twice,
            self.dead_letter,
            self.handled,
        ):
            await act()

    async def healthy(self) -> None:
        """Completions in three platforms' dialects reach a customer that is well."""
        begun = time.perf_counter()
        ids = await self._push(_HEALTHY, "receiver")
        await self._delivered(ids)
        took_ms = (time.perf_counter() - begun) * 1000
        self._say(
            f"[b]1[/b]  {len(ids)} completions pushed, signed, delivered: {took_ms:.0f} ms in all"
        )

    async def submitted_twice(self) -> None:
        """Submit the same completion again, as a platform that lost the response does."""
        completion = self._completion("receiver")
        first = await self._submit(completion, "receiver")
        second = await self._submit(completion, "receiver")
        self.tally.submitted["receiver"].append(first.id)
        self.tally.duplicate_submits += second.duplicate
        _expect(second.duplicate and first.id == second.id, "the second submit was no duplicate")
        self._say("[b]2[/b]  the same completion submitted twice: one callback, one delivery")

    async def slow_beside_healthy(self) -> None:
        """One customer takes a second for each; another does not notice."""
        slow = await self._push(_SLOW, "slow")
        times = await self._time_healthy()
        await self._delivered(slow)
        self._say(
            f"[b]3[/b]  {len(slow)} to a customer who takes 1 s each; meanwhile another gets "
            f"{len(times)}, {statistics.median(times) * 1000:.0f} ms each"
        )

    async def _time_healthy(self) -> list[float]:
        times = []
        for _ in range(_HEALTHY // 3):
            begun = time.perf_counter()
            (callback,) = await self._push(1, "receiver")
            await self._delivered([callback])
            times.append(time.perf_counter() - begun)
        return times

    async def outage(self) -> None:
        """Stop the customer's receiver for a while."""
        await self._cast.receiver.stop()
        ids = await self._push(_OUTAGE, "receiver", policy=_IMPATIENT)
        await self._each(
            ids, lambda one: one.attempts > 0, "no attempt failed while the customer was gone"
        )
        self._say(f"[b]4[/b]  the customer is down: {len(ids)} accepted all the same, retrying …")
        await self._cast.receiver.start("/readyz")
        await self._delivered(ids)
        self._say("    … it is back: all delivered")

    async def crash(self) -> None:
        """`kill -9` of the dispatcher and the receiver in the middle of everything."""
        before = self.tally.total
        pushing = asyncio.create_task(self._push(_CRASH, "receiver", policy=_IMPATIENT))

        async def under_way() -> bool:
            return self.tally.total - before > _CRASH // 4

        await self._until(under_way, "nothing was accepted before the crash")
        _expect(not pushing.done(), "all was accepted before the crash")
        await asyncio.gather(self._cast.dispatcher.kill(), self._cast.receiver.kill())
        self._say(
            f"[b]5[/b]  kill -9 of both services amid {_CRASH} submits; clients keep trying …"
        )
        await asyncio.gather(
            self._cast.dispatcher.start("/readyz"), self._cast.receiver.start("/readyz")
        )
        ids = await pushing
        await self._delivered(ids)
        self._say(f"    … restarted: all {len(ids)} acknowledged, all delivered, none lost")

    async def jobs(self) -> None:
        """Put a model server that only answers while one waits behind the gateway, and kill the
        dispatcher while the model works."""
        async with self._http() as http:
            model = f"{self._cast.customers.url}/model"
            endpoint = {"name": "model", "url": model, "concurrency": _CALLS}
            (await http.post("/v1/endpoints", json=endpoint)).raise_for_status()
            callback = {"Postback-Callback-Url": f"{self._cast.receiver.url}/webhooks"}
            jobs = []
            for number in range(JOBS):
                one = await http.post(
                    "/v1/endpoints/model/jobs", json={"number": number}, headers=callback
                )
                jobs.append(one.raise_for_status().json()["id"])
            await self._cast.dispatcher.kill()
            self._say(
                f"[b]6[/b]  {len(jobs)} jobs for a model that answers while one waits; "
                "kill -9 meanwhile …"
            )
            await self._cast.dispatcher.start("/readyz")
            results = await self._results(http, jobs)
        await self._delivered(results)
        self.tally.submitted["receiver"] += results
        self.tally.results += len(results)
        self._say(f"    … restarted: {len(results)} results, each told by one callback")

    async def three_dialects(self) -> None:
        """Have one slow function called as the clients of three platforms call theirs."""
        hook = f"{self._cast.receiver.url}/webhooks"
        async with self._http() as http:
            # Whatever a request has around it, the function gets its input alone.
            slow = {"name": "slow", "url": f"{self._cast.customers.url}/model", "body": "input"}
            await _posted(http, "/v1/endpoints", slow)
            document = {"input": {"number": 1}, "async": True, "callbackUrl": hook}
            tensorone = (await _posted(http, "/v2/endpoints/slow/runasync", document))["jobId"]
            document = {"input": {"number": 2}, "webhook": hook}
            runpod = (await _posted(http, "/v2/slow/run", document))["id"]
            query = urlencode({"async": "true", "webhookEndpoint": hook})
            cerebrium = (await _posted(http, f"/v4/demo/slow/run?{query}", {"number": 3}))["run_id"]
            results = await self._results(http, [tensorone, runpod, cerebrium])
            words = [
                (await _got(http, f"/v2/jobs/{tensorone}/status"))["status"],
                (await _got(http, f"/v2/slow/status/{runpod}"))["status"],
                (await _got(http, f"/v2/projects/demo/apps/demo-slow/runs/{cerebrium}"))["item"][
                    "status"
                ],
            ]
        _expect(words == ["completed", "COMPLETED", "success"], f"the words are {words}")
        await self._delivered(results)
        self.tally.submitted["receiver"] += results
        self.tally.results += len(results)
        self._say("[b]7[/b]  one slow function, called as at TensorOne, RunPod and Cerebrium …")
        self._say(f"    … and told in their words: {', '.join(words)}")

    def _http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self._cast.api_key}"}
        url = self._cast.dispatcher.url
        return httpx.AsyncClient(base_url=url, trust_env=False, headers=headers)

    async def _results(self, http: httpx.AsyncClient, jobs: Sequence[str]) -> list[str]:
        """Wait for the jobs' ends; returns the ids of the callbacks that tell them."""
        callbacks = []
        for job in jobs:
            view = (await http.get(f"/v1/jobs/{job}?wait=10", timeout=30)).raise_for_status().json()
            _expect(view["status"] == "completed", f"a job is {view['status']}")
            callbacks.append(view["callback"]["id"])
        return callbacks

    async def delivered_twice(self) -> None:
        """Replay what had arrived; the receiver knows it already."""
        known = self.tally.submitted["receiver"][0]
        await self._client.replay(known)
        await self._delivered([known])
        last = (await self._client.attempts(known))[-1]
        _expect("duplicate" in (last.response_excerpt or ""), "the receiver took a duplicate")
        self._say(
            '[b]8[/b]  one delivered again: the receiver answers "duplicate", handles nothing'
        )

    async def dead_letter(self) -> None:
        """Let a customer's bug make deliveries dead, find them, fix it, and replay them."""
        ids = await self._push(_BUGGY, "buggy", policy=_HOPELESS)
        await self._each(
            ids, lambda one: one.status == "dead", "the buggy customer's were not dead"
        )
        dead = [callback async for callback in self._client.list(status="dead")]
        _expect({one.id for one in dead} == set(ids), "the list of dead ones is wrong")
        self._say(f"[b]9[/b]  {len(dead)} dead, found by status: {dead[0].last_error} from a bug …")
        preview = await self._client.preview_replay({"status": "dead", "tags": {"team": "buggy"}})
        _expect(preview.matched == len(ids), "the preview does not match")
        async with httpx.AsyncClient(trust_env=False) as http:
            await http.post(f"{self._cast.customers.url}/fix")
        replay = await self._client.start_replay({"status": "dead", "tags": {"team": "buggy"}})
        async for step in self._client.watch_replay(replay.id):
            replay = step
        await self._delivered(ids)
        self._say(
            f"    … previewed ({preview.matched}), fixed, replayed ({replay.replayed}): delivered"
        )

    async def handled(self) -> None:
        """Check that the customer's handler ran once for each completion, through all `kill -9`."""
        wanted = len(set(self.tally.submitted["receiver"]))

        async def all_of_them() -> bool:
            return len(fulfilled(self._cast.shop)) >= wanted

        await self._until(all_of_them, "not every completion was handled")
        self._say(f"[b]10[/b] the receiver's handler has fulfilled {wanted} jobs, each once")

    # --- the small steps ---

    def _completion(self, team: str) -> Completion:
        self._number += 1
        return completion(self._number, team=team)

    async def _push(self, count: int, team: str, **options: Any) -> list[str]:
        wanted = [self._completion(team) for _ in range(count)]
        gate = asyncio.Semaphore(16)

        async def one(what: Completion) -> str:
            async with gate:
                submitted = await self._submit(what, team, **options)
                self.tally.submitted.setdefault(team, []).append(submitted.id)
                return submitted.id

        return list(await asyncio.gather(*map(one, wanted)))

    async def _submit(self, what: Completion, team: str, **options: Any) -> Submitted:
        url = f"{self._cast.receiver.url}/webhooks"
        if team != "receiver":
            url = f"{self._cast.customers.url}/{team}"
        return await self._client.submit(
            what.job_id, what.body, callback_url=url, tags=what.tags, **options
        )

    async def _delivered(self, ids: Sequence[str]) -> None:
        await self._each(ids, lambda one: one.status == "delivered", "not everything was delivered")

    async def _each(
        self, ids: Sequence[str], holds: Callable[[Callback], bool], otherwise: str
    ) -> None:
        """Until this was seen to hold for each, of which none is asked for again."""
        waiting = list(ids)

        async def none_left() -> bool:
            while waiting and holds(await self._client.get(waiting[-1])):
                waiting.pop()
            return not waiting

        await self._until(none_left, otherwise)

    async def _until(self, holds: Callable[[], Any], otherwise: str) -> None:
        try:
            async with asyncio.timeout(_SETTLE_S):
                while not await holds():  # noqa: ASYNC110  # what happens, happens elsewhere
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise DemoError(otherwise) from None


async def _posted(http: httpx.AsyncClient, path: str, document: Any) -> Any:
    return (await http.post(path, json=document)).raise_for_status().json()


async def _got(http: httpx.AsyncClient, path: str) -> Any:
    return (await http.get(path)).raise_for_status().json()


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoError(otherwise)


@asynccontextmanager
async def playing(cast: Cast) -> AsyncIterator[AsyncClient]:
    """Yield the cast on stage, and a client to talk to its dispatcher; off stage again at the
    end."""
    try:
        await cast.start()
        async with AsyncClient(cast.dispatcher.url, cast.api_key, retries=30) as client:
            yield client
    finally:
        await cast.stop()


def completion(number: int, *, team: str) -> Completion:
    """Return the `number`-th completion of a demo, in one of the three dialects in turn."""
    dialect = (_tensorone, _runpod, _cerebrium)[number % 3]
    job_id, document = dialect(number)
    body = json.dumps(document, separators=(",", ":")).encode()
    tags = {"team": team, "platform": dialect.__name__.strip("_")}
    return Completion(job_id=job_id, body=body, tags=tags)


def _tensorone(number: int) -> tuple[str, dict[str, Any]]:
    job_id = f"job_{number:016x}"
    return job_id, {
        "jobId": job_id,
        "status": "completed",
        "output": {
            "document_url": f"https://storage.example/documents/report_{number}.pdf",
            "pages": 50,
            "word_count": 12_500,
            "generation_time": 287,
        },
        "executionTime": 287.5,
        "completedAt": "2024-01-15T14:34:47Z",
        "cost": 0.75,
        "tags": {"userId": "user_12345", "projectId": "proj_report_gen"},
    }


def _runpod(number: int) -> tuple[str, dict[str, Any]]:
    job_id = f"{number:08x}-demo-u1"
    return job_id, {
        "jobId": job_id,
        "status": "COMPLETED",
        "input": {"prompt": "The lazy brown fox jumps over the"},
        "output": {"text": "The lazy brown fox jumps over the quick dog."},
        "executionTime": 2_297,
    }


def _cerebrium(number: int) -> tuple[str, dict[str, Any]]:
    job_id = f"21eb3b98-4b10-9ad6-8681-{number:012x}"
    return job_id, {"jobId": job_id, "status": "success", "result": {"smile": "wave"}}
