"""What holds for every test."""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import cast

import freezegun

# Freezing the clock is for wall-clock decisions. An event loop that serves in another thread must
# not see it: a timer that it sets meanwhile would never ring.
freezegun.configure(extend_ignore_list=["asyncio"])

# Hundreds of processes are started, and a quarter of each one's start would be compiling what the
# one before it compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# httpx looks for it at every request, and a search that finds nothing takes longer than a request.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = cast(ModuleType, None)
