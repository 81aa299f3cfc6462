"""What a check of the doctor found."""

from typing import Literal

import msgspec


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`ok`, `warn` (it works, but) or `bad`, in words, and what to do."""

    name: str
    state: Literal["ok", "warn", "bad"]
    message: str
    advice: str | None = None
