"""A shop on FastAPI, whole: it orders documents from a platform, and fulfils each order once.

pip install '.[receiver]' fastapi       # in a checkout of Postback
export RECEIVER_SECRETS=whsec_…       # the platform gives both to you
export PLATFORM_KEY=… PLATFORM_URL=https://api.example.com/v2/endpoints/ep_report/runasync
export SHOP_URL=https://shop.example.com
uvicorn fastapi_shop:app              # completions come in at SHOP_URL/hooks/webhooks
"""

import asyncio
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from receiver import Event, Receiver
from receiver.handling.tx import Tx
from receiver.settings import load

SHOP = os.environ.get("SHOP_DATABASE", "shop.db")
SHOP_URL = os.environ["SHOP_URL"]
PLATFORM_URL = os.environ["PLATFORM_URL"]
PLATFORM_KEY = os.environ["PLATFORM_KEY"]
PATIENCE = timedelta(minutes=15)  # a job that is silent for longer is asked for

receiver = Receiver(
    replace(
        load(),  # the RECEIVER_* variables
        effects_url=f"sqlite:///{SHOP}",  # where `tx` writes: beside your own tables
        credentials=(f"platform@{httpx.URL(PLATFORM_URL).host}={PLATFORM_KEY}",),
    )
)


@receiver.on("completed")
def fulfil(event: Event, tx: Tx) -> None:
    """Commit together with the mark that this event was handled, or not at all: once."""
    settle(event, tx, "ready", event.output["document_url"])


@receiver.on("failed", "timeout", "cancelled")
def apologise(event: Event, tx: Tx) -> None:
    settle(event, tx, event.status, None)


def settle(event: Event, tx: Tx, state: str, url: str | None) -> None:
    """By the order's id, which came back as a tag: a callback can be faster than the answer to our
    submit, which tells the job's id. An answer of the status URL carries no tags, but the job."""
    changed = tx.execute(
        "UPDATE orders SET state = ?, url = ?, job = ? WHERE id = ? OR job = ?",
        (state, url, event.job_id, event.tags.get("order"), event.job_id),
    )
    if changed.rowcount != 1:  # tried again, then kept as dead: `receiver inbox list --state dead`
        raise LookupError(f"there is no order for {event.job_id}")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Your own, with the receiver in it. Without one of your own: lifespan=receiver.lifespan."""
    ask("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, state TEXT, job TEXT, url TEXT)")
    async with receiver, httpx.AsyncClient(trust_env=False) as app.state.http:
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/hooks", receiver)


class Order(BaseModel):
    prompt: str


@app.post("/orders", status_code=202)
async def order(wanted: Order) -> dict[str, str]:
    """Store the order before its job is asked for: no completion comes to an unknown order."""
    id = uuid.uuid4().hex
    await asyncio.to_thread(ask, "INSERT INTO orders VALUES (?, 'ordered', NULL, NULL)", (id,))
    try:
        job = await submit(id, wanted.prompt)
    except httpx.HTTPError:
        await asyncio.to_thread(ask, "UPDATE orders SET state = 'refused' WHERE id = ?", (id,))
        raise HTTPException(502, "the platform took no order") from None
    await asyncio.to_thread(ask, "UPDATE orders SET job = ? WHERE id = ?", (job["jobId"], id))
    await receiver.expect(job["jobId"], job["statusUrl"], by=PATIENCE, credentials="platform")
    return {"id": id}


@app.get("/orders/{id}")
def show(id: str) -> dict[str, Any]:
    found = ask("SELECT state, url FROM orders WHERE id = ?", (id,))
    if not found:
        raise HTTPException(404, "there is no such order")
    return dict(zip(("state", "url"), found[0], strict=True))


async def submit(id: str, prompt: str) -> dict[str, Any]:
    """Ask the platform for an order's job. Raises httpx.HTTPError."""
    answer = await app.state.http.post(
        PLATFORM_URL,
        headers={"Authorization": f"Bearer {PLATFORM_KEY}"},
        json={
            "input": {"prompt": prompt},
            "callbackUrl": f"{SHOP_URL}/hooks/webhooks",
            "tags": {"order": id},
        },
    )
    answer.raise_for_status()
    job: dict[str, Any] = answer.json()
    return job


def ask(sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """One statement on the shop's own database, committed."""
    with closing(sqlite3.connect(SHOP, timeout=5)) as db, db:
        return db.execute(sql, parameters).fetchall()
