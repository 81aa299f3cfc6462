"""Bytes in a bucket of an S3 server, Amazon's or any other: `s3://bucket/prefix`. Needs `boto3`,
the extra `s3`.

What is longer than one part is uploaded in parts, and is there once the last call has said so: a
process that dies before leaves an upload behind that nobody sees, which goes when its row does.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from dispatcher.blobs.storage import Missing, Part, StorageError
from dispatcher.settings import Settings

T = TypeVar("T")
PREFIX: Final = "s3://"
_THREADS: Final = 16
_PART_BYTES: Final = 5 * 1024 * 1024  # the least that S3 takes of a part that is not the last one
_LONG_PART_BYTES: Final = 64 * 1024 * 1024
_LONG_FROM: Final = 5_000  # there are 10,000 parts at most
_GOING_MAX: Final = 2  # parts of one upload; only then is another one filled
_CONNECT_S: Final = 10
_READ_S: Final = 60
_TRIES: Final = 5
_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_UPLOAD: Final = frozenset({"404", "NoSuchUpload", "NotFound"})


class Bucket:
    """Objects below a prefix, which nobody else changes."""

    gives_way = False

    def __init__(self, name: str, settings: Settings) -> None:
        """`name` is `s3://`, a bucket and a prefix."""
        self.name = name
        bucket, _, prefix = name.removeprefix(PREFIX).partition("/")
        self.bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._settings = settings
        self._client: Any = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")

    def key(self, id: str) -> str:
        """Return the object of an id."""
        return f"{self._prefix}{id}"

    async def open(self) -> None:
        """Look whether the bucket is there. Raises StorageError."""
        try:
            await self.run(partial(self._call, "head_bucket"))
        except Missing as error:
            raise StorageError(f"there is no bucket {self.bucket}: {error}") from error

    def writer(self, id: str, content_type: str) -> "ObjectWriter":
        return ObjectWriter(self, self.key(id), content_type)

    async def read(self, id: str, n: int, step: int, size: int) -> bytes:
        if not size:
            return b""
        return await self.run(partial(self._read, self.key(id), n * step, size))

    def _read(self, key: str, start: int, size: int) -> bytes:
        wanted = f"bytes={start}-{start + size - 1}"
        answer = self._call("get_object", Key=key, Range=wanted)
        with answer["Body"] as body:
            data: bytes = body.read()
        return data

    async def delete(self, id: str) -> bool:
        await self.run(partial(self._delete, self.key(id)))
        return True

    def _delete(self, key: str) -> None:
        self._call("delete_object", Key=key)
        found = self._call("list_multipart_uploads", Prefix=key)
        for upload in found.get("Uploads", ()):
            if upload["Key"] == key:
                self.abort(key, upload["UploadId"])

    def abort(self, key: str, upload: str) -> None:
        """Let go of an upload that was not finished."""
        with suppress(Missing):
            self._call("abort_multipart_upload", Key=key, UploadId=upload)

    async def link(self, id: str, lasting_s: int) -> str | None:
        url: str = await self.run(partial(self._signed, self.key(id), lasting_s))
        return url

    def _signed(self, key: str, lasting_s: int) -> str:
        given = {
            "Bucket": self.bucket,
            "Key": key,
            "ResponseContentDisposition": "attachment",
            "ResponseCacheControl": "no-store",
        }
        url: str = self.client().generate_presigned_url(
            "get_object", Params=given, ExpiresIn=lasting_s
        )
        return url

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    # --- the client, on its threads ---

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` does on a thread. Raises Missing and StorageError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def client(self) -> Any:
        """Return the client; it is made when it is first needed, which takes a while."""
        if self._client is None:
            self._client = _client(self._settings)
        return self._client

    def _call(self, name: str, **given: Any) -> Any:
        return call(partial(getattr(self.client(), name), Bucket=self.bucket, **given))

    def put(self, key: str, body: bytes | bytearray, content_type: str) -> None:
        """Store a short one whole."""
        self._call("put_object", Key=key, Body=body, ContentType=content_type)

    def begin(self, key: str, content_type: str) -> str:
        """Begin an upload in parts; return what it is called."""
        begun = self._call("create_multipart_upload", Key=key, ContentType=content_type)
        return str(begun["UploadId"])

    def put_part(self, key: str, upload: str, number: int, body: bytearray) -> dict[str, Any]:
        """Upload a part; return what finishes it."""
        given = {"Key": key, "UploadId": upload, "PartNumber": number, "Body": body}
        answer = self._call("upload_part", **given)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def finish(self, key: str, upload: str, parts: list[dict[str, Any]]) -> None:
        """Have an upload be there, whole."""
        given = {"Key": key, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
        self._call("complete_multipart_upload", **given)


class ObjectWriter:
    """Writes one object: two parts are uploaded at once, or one while the next one is filled."""

    def __init__(self, bucket: Bucket, key: str, content_type: str) -> None:
        self._bucket = bucket
        self._key = key
        self._type = content_type
        self._filled = bytearray()
        self._size = 0  # of what is filled
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._number = 0
        self._going: deque[asyncio.Future[dict[str, Any]]] = deque()

    async def write(self, part: Part, *, synced: bool = False) -> None:
        wanted = _PART_BYTES if self._number < _LONG_FROM else _LONG_PART_BYTES
        if not self._size:
            await self._make_room()
            # As a whole: one that grows leaves holes in memory that nothing else fits in.
            self._filled = bytearray(-(-wanted // len(part)) * len(part))
        self._filled[self._size : self._size + len(part)] = part
        self._size += len(part)
        if self._size >= wanted:
            await self._send()

    def _taken(self) -> bytearray:
        """Return what is filled, and begin anew."""
        body, self._filled = self._filled, bytearray()
        del body[self._size :]
        self._size = 0
        return body

    async def _send(self) -> None:
        if self._upload is None:
            begin = partial(self._bucket.begin, self._key, self._type)
            self._upload = await self._bucket.run(begin)
        body = self._taken()
        self._number += 1
        put = partial(self._bucket.put_part, self._key, self._upload, self._number, body)
        self._going.append(asyncio.ensure_future(self._bucket.run(put)))

    async def _make_room(self) -> None:
        """Wait until another part may be filled."""
        while len(self._going) >= _GOING_MAX:
            await self._sent()

    async def _sent(self) -> None:
        """Wait for the one that was sent first."""
        going = self._going[0]
        await asyncio.wait((going,))
        self._going.popleft()
        self._parts.append(going.result())

    async def finish(self) -> None:
        if self._upload is None:
            put = partial(self._bucket.put, self._key, self._taken(), self._type)
            await self._bucket.run(put)
            return
        if self._size:
            await self._send()
        while self._going:
            await self._sent()
        finish = partial(self._bucket.finish, self._key, self._upload, self._parts)
        await self._bucket.run(finish)

    async def abandon(self) -> None:
        self._filled = bytearray()
        upload = self._upload
        while self._going:
            with suppress(Exception):  # whoever waited for it was told
                await self._sent()
        if upload is not None:
            with suppress(Exception):  # else it goes with its row
                await self._bucket.run(partial(self._bucket.abort, self._key, upload))


def _client(settings: Settings) -> Any:
    """Return a client. Raises StorageError where the extra is missing."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise StorageError(
            "outputs on S3 need the package boto3: pip install '.[s3]' in a checkout"
        ) from None
    endpoint = settings.s3_endpoint
    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"max_attempts": _TRIES, "mode": "standard"},
        max_pool_connections=_THREADS,
        signature_version="s3v4",
        s3={"addressing_style": "auto" if endpoint is None else "path"},
        # What others than Amazon do not know.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = boto3.session.Session()
    return session.client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region or session.region_name or "us-east-1",
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=settings.s3_secret_access_key,
        config=config,
    )


def call(work: Callable[[], Any]) -> Any:
    """Return what a call of the client does. Raises Missing and StorageError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return work()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _MISSING | _NO_UPLOAD:
            raise Missing(str(error)) from error
        raise StorageError(str(error)) from error
    except BotoCoreError as error:
        raise StorageError(str(error)) from error
