"""What somebody finds who has the files: searches them for secrets as bytes, in every encoding in
which we, our databases or our logs might have written them."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import quote

_BLOCK: Final = 1 << 20
# Of a longer secret each part of so many bytes is looked for: a row may be torn between two pages.
PART: Final = 24
# A part is told from chance by no fewer.
_BYTES_MIN: Final = 8


def spellings(secret: bytes) -> dict[str, bytes]:
    """Return how a secret may be written, by what that is called; its hash, too, which confirms a
    guess."""
    hashed = sha256(secret).digest()
    found = {f"{name} of its hash": one for name, one in _encodings(hashed).items()}
    for part in _parts(secret):
        found |= {f"{name} of {part!r}": one for name, one in _encodings(part).items()}
    return {name: one for name, one in found.items() if len(one) >= _BYTES_MIN}


def found_in(files: Iterable[Path], secrets: Mapping[str, bytes]) -> list[str]:
    """Return what of the secrets, by their names, is where in the files; folders are looked
    through. A file that goes away meanwhile is none."""
    wanted = [
        (f"{name}: {how}", one)
        for name, secret in secrets.items()
        for how, one in spellings(secret).items()
    ]
    longest = max(len(one) for _, one in wanted)
    found = []
    for file in _files(files):
        left = list(wanted)
        for block in _blocks(file, longest):
            for one in [one for one in left if one[1] in block]:
                left.remove(one)
                found.append(f"{file}: {one[0]}")
    return found


def _encodings(part: bytes) -> dict[str, bytes]:
    found = {
        "the bytes": part,
        "hex": part.hex().encode(),
        "upper-case hex": part.hex().upper().encode(),
        "percent-encoding": quote(part, safe="").encode(),
        "a repr": repr(part)[2:-1].encode(),
    }
    for offset in range(3):  # wherever in the text that was encoded it stood
        encoded = base64.b64encode(b"\0" * offset + part)
        whole = encoded[(offset * 8 + 5) // 6 : len(encoded) - 4]
        found[f"base64 at {offset}"] = whole
        found[f"base64 for URLs at {offset}"] = whole.translate(bytes.maketrans(b"+/", b"-_"))
    try:
        text = part.decode()
    except UnicodeDecodeError:
        return found
    once = json.dumps(text)[1:-1]
    found |= {
        "JSON": once.encode(),
        "JSON within JSON": json.dumps(once)[1:-1].encode(),
        "UTF-16": text.encode("utf-16-le"),
    }
    return found


def _parts(secret: bytes) -> Iterator[bytes]:
    step = PART if len(secret) > PART else len(secret)
    for start in range(0, len(secret) - step + 1, step):
        yield secret[start : start + step]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (file for file in sorted(path.rglob("*")) if file.is_file())
        elif path.exists():
            yield path


def _blocks(file: Path, overlap: int) -> Iterator[bytes]:
    before = b""
    try:
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                yield before + block
                before = block[-overlap:]
    except FileNotFoundError:
        return
