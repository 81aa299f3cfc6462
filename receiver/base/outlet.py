"""Where lines of log go, which somebody may read or not: a pipe that nobody empties stops no
service."""

import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Final, Protocol, TextIO

WAITING_BYTES_MAX: Final = 1024 * 1024  # some thousand lines
_CLOSE_S: Final = 0.5  # for what waits at the end of the process
_FULL_S: Final = 0.01


class _Handle(Protocol):
    """A handle of our own on where the lines go."""

    def write(self, data: bytes) -> int:
        """Write what is taken without waiting; return how much. Raises OSError."""

    def wait(self) -> None:
        """Wait until more is taken. For a thread."""

    def close(self) -> None: ...


class Outlet:
    """Writes text without waiting for a reader. What is not taken at once waits for a thread, up
    to `WAITING_BYTES_MAX`; what comes then is dropped, and once the lines flow again `told` makes
    the line that says how many are lost."""

    dropped: ClassVar[int] = 0
    """Lines that this process has dropped."""

    def __init__(self, out: TextIO, told: Callable[[int], str]) -> None:
        self._out = out
        self._told = told
        self._encoding = getattr(out, "encoding", None) or "utf-8"
        self._lock = threading.RLock()  # a signal's handler may write while we do
        self._handle: _Handle | None = None  # None: plain writing waits for nobody
        self._is_open = False
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._untold = 0
        self._thread: threading.Thread | None = None

    @property
    def is_full(self) -> bool:
        """Whether what is written now would be dropped."""
        return self._waiting_bytes >= WAITING_BYTES_MAX

    def write(self, text: str, lines: int) -> None:
        """Write so many lines, or keep them, or drop them."""
        if not self._is_open:
            self._handle, self._is_open = _handle(self._out), True
        handle = self._handle
        if handle is None:
            self._out.write(text)
            self._out.flush()
            return
        data = text.encode(self._encoding, "backslashreplace")
        with self._lock:
            if not self._waiting:
                data = data[_taken(handle, data) :]
            if not data:
                return
            if self._waiting_bytes + len(data) > WAITING_BYTES_MAX:
                self.drop(lines)
                return
            self._keep(data)
            if self._thread is None or not self._thread.is_alive():  # or before a fork
                self._start(handle, lines)

    def drop(self, lines: int) -> None:
        """Count lines that are not written."""
        Outlet.dropped += lines
        self._untold += lines

    def close(self) -> None:
        """Give what waits a moment to be read, and let go."""
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
        with self._lock:
            if self._thread is None and self._handle is not None:
                self._handle.close()
                self._handle, self._is_open = None, False

    def _keep(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    def _start(self, handle: _Handle, lines: int) -> None:
        thread = threading.Thread(target=self._empty, args=(handle,), name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had
            self.drop(lines)
            self._waiting.clear()
            self._waiting_bytes = 0
        else:
            self._thread = thread

    def _empty(self, handle: _Handle) -> None:
        """Write what waits, as it is read."""
        while data := self._next():
            handle.wait()
            taken = _taken(handle, data)
            if not taken:
                time.sleep(_FULL_S)
            with self._lock:
                self._waiting[0] = data[taken:]
                self._waiting_bytes -= taken
                if not self._waiting[0]:
                    self._waiting.popleft()

    def _next(self) -> bytes:
        """Return what waits longest; nothing where the thread is to end."""
        with self._lock:
            if not self._waiting and self._untold:
                untold, self._untold = self._untold, 0
                self._keep(self._told(untold).encode(self._encoding, "backslashreplace"))
            if not self._waiting:
                self._thread = None
                return b""
            return self._waiting[0]


class _Descriptor:
    """A pipe or a terminal, opened once more: whoever else has it open goes on as they are."""

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        self._number = os.open(path, flags)
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLOUT)

    def write(self, data: bytes) -> int:
        return os.write(self._number, data)

    def wait(self) -> None:
        self._poll.poll()

    def close(self) -> None:
        os.close(self._number)


class _Socket:
    """A socket, as the journal's is; written to without waiting, whatever mode it is in."""

    def __init__(self, number: int) -> None:
        self._socket = socket.socket(fileno=os.dup(number))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def wait(self) -> None:
        self._poll.poll()

    def close(self) -> None:
        self._socket.close()


class _Waiting:
    """Where one cannot ask: the thread writes everything, and waits as it does."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._is_ours = threading.local()

    def write(self, data: bytes) -> int:
        if not getattr(self._is_ours, "thread", False):
            raise BlockingIOError
        return os.write(self._number, data)

    def wait(self) -> None:
        self._is_ours.thread = True

    def close(self) -> None:
        pass


def _taken(handle: _Handle, data: bytes) -> int:
    """Return how much is taken now; all, where there is nowhere to write any more."""
    try:
        return handle.write(data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


def _handle(out: TextIO) -> _Handle | None:
    """Return what writes there without waiting; None for files and memory, which take all."""
    try:
        number = out.fileno()
        mode = os.fstat(number).st_mode
    except (AttributeError, OSError, ValueError):
        return None
    if stat.S_ISREG(mode):
        return None
    with suppress(AttributeError, OSError):  # other systems lack some of it
        return _Socket(number) if stat.S_ISSOCK(mode) else _Descriptor(f"/proc/self/fd/{number}")
    return _Waiting(number)
