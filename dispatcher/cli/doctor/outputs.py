"""Whether long outputs can be kept where they are to be. Changes nothing."""

import asyncio
import os
from pathlib import Path
from typing import Final

from dispatcher.blobs import folder, tables
from dispatcher.blobs.bucket import PREFIX as S3_PREFIX
from dispatcher.blobs.bucket import Bucket
from dispatcher.blobs.storage import StorageError
from dispatcher.settings import Settings
from receiver.base.checkup import Check, bad, ok, warn
from receiver.base.cli import size

_NAME: Final = "outputs"


def outputs(settings: Settings) -> Check:
    """Return where they are kept, and whether anything can be."""
    name = settings.outputs_storage
    if name == tables.NAME:
        return ok(_NAME, f"in the database, up to {size(settings.outputs_database_max)} each")
    if name.startswith(S3_PREFIX):
        return asyncio.run(_in_bucket(name, settings))
    return _in_folder(Path(name.removeprefix(folder.PREFIX)).absolute(), settings)


async def _in_bucket(name: str, settings: Settings) -> Check:
    bucket = Bucket(name, settings)
    try:
        await bucket.open()
    except StorageError as error:
        advice = "check DISPATCHER_OUTPUTS, DISPATCHER_S3_ENDPOINT and the credentials"
        return bad(_NAME, f"{name} cannot be used: {error.reason}", advice)
    finally:
        await bucket.close()
    return ok(_NAME, f"in {name}")


def _in_folder(path: Path, settings: Settings) -> Check:
    """Look only: the service makes the folder, and whoever looks may be another user."""
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        advice = "let the service's user write there, or set DISPATCHER_OUTPUTS to another folder"
        return bad(_NAME, f"nothing can be written in {there}", advice)
    found = os.statvfs(there)
    free, reserve = found.f_bavail * found.f_frsize, settings.storage_reserve_bytes
    message = f"in {path}, {size(free)} free"
    if free <= reserve:
        advice = "jobs with long outputs will fail there: free some room, or move the folder"
        return warn(_NAME, message, advice)
    return ok(_NAME, message)
