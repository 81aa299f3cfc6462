"""Values that are made on the way of every message, many times a second."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a frozen dataclass, whose fields are named when one is made. That nobody changes one is
    for the type checker to see to: to have Python see to it makes it take three times as long to
    make (24 fields: 3.2 µs for 1.2)."""
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
