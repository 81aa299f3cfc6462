"""The receiver inside your own application: completions at /hooks/webhooks, handled once.

    RECEIVER_SECRETS=whsec_… SHOP_DATABASE=shop.db uvicorn mount:app

This is Starlette; fastapi_shop.py is a whole shop on FastAPI.
"""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from receiver import Event, Receiver
from receiver.handling.tx import Tx
from receiver.settings import load

SHOP = os.environ.get("SHOP_DATABASE", "shop.db")

with closing(sqlite3.connect(SHOP)) as db:
    db.execute("CREATE TABLE IF NOT EXISTS reports (job TEXT PRIMARY KEY, state TEXT, url TEXT)")

receiver = Receiver(replace(load(), effects_url=f"sqlite:///{SHOP}"))


@receiver.on("completed")
def fulfil(event: Event, tx: Tx) -> None:
    """Commit together with the mark that this event was handled, or not at all."""
    tx.execute(
        "INSERT INTO reports VALUES (?, 'ready', ?)", (event.job_id, event.output["document_url"])
    )


@receiver.on("failed", "timeout", "cancelled")
def apologise(event: Event, tx: Tx) -> None:
    tx.execute("INSERT INTO reports VALUES (?, ?, NULL)", (event.job_id, event.status))


async def reports(request: Request) -> JSONResponse:
    with closing(sqlite3.connect(SHOP)) as db:
        return JSONResponse(dict(db.execute("SELECT job, state FROM reports").fetchall()))


app = Starlette(
    routes=[Route("/reports", reports), Mount("/hooks", app=receiver)],
    lifespan=receiver.lifespan,
)
