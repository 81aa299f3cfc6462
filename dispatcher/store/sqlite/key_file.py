"""The key of a SQLite database that nobody gave one: a file of its own beside it, so that a copy of
the database alone gives nothing away. Never in a backup."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from dispatcher.store.errors import CannotStart
from dispatcher.store.sealing import Keys
from receiver.base import log
from receiver.base.keyring import KeyringError, make_key, read_keys

_LOG = log.get("dispatcher.store")


def key_file_of(database: Path) -> Path:
    """Return where the key file of a database is; through symbolic links, as its lock file."""
    return Path(os.path.realpath(database) + ".key")


def read_key_file(file: Path) -> Keys:
    """Return the keys in a key file, none where there is no file. Raises CannotStart for one that
    cannot be used."""
    try:
        text = file.read_text("ascii")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CannotStart(f"cannot read the key file {file}: {why}") from None
    if is_exposed(file):
        _LOG.warning("others may read the key file: chmod 600", file=str(file))
    try:
        return read_keys(text, str(file))
    except KeyringError as error:
        raise CannotStart(f"the key file cannot be used: {error}") from None


def make_key_file(file: Path) -> Keys:
    """Make a key file, its owner's alone, and return its key once it is on the disk for good:
    nothing may be sealed with a key that a power cut forgets. Called by the database's only owner.
    Raises CannotStart."""
    text = make_key() + "\n"
    new = file.with_name(file.name + ".new")
    try:
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, text.encode("ascii"))
            os.fsync(handle)
        finally:
            os.close(handle)
        new.rename(file)
        _sync(file.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise CannotStart(
            f"cannot make the key file {file}: {error.strerror}; let the service write there, or "
            "set DISPATCHER_ENCRYPTION_KEYS"
        ) from None
    _LOG.warning(
        "made a key for what is sealed in the database: keep a copy of the file in another place; "
        "no backup of the database holds it, and none can be used without it",
        file=str(file),
    )
    return read_key_file(file)


def is_exposed(file: Path) -> bool:
    """Whether others than its owner may read a key file."""
    try:
        return bool(file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    except OSError:
        return False


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
