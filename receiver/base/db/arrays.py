"""PostgreSQL's arrays as parameters: flat lists of one type, packed in one go. The driver packs any
list, whose items it looks at three times: half of the CPU that a batch's parameters cost."""

from collections.abc import Sequence
from struct import Struct
from typing import Any, ClassVar, Final

from psycopg import pq
from psycopg.adapt import Dumper, PyFormat
from psycopg.types.array import ListBinaryDumper

_HEAD: Final = Struct("!iiiii").pack  # dimensions, has NULLs, items' oid, length, first index
_LENGTH: Final = Struct("!i").pack
_INT8: Final = Struct("!iq").pack
_FLOAT8: Final = Struct("!id").pack
_NULL: Final = b"\xff\xff\xff\xff"


def _text(item: str) -> bytes:
    data = item.encode()
    return _LENGTH(len(data)) + data


def _bytea(item: bytes) -> bytes:
    return _LENGTH(len(item)) + item


def _int8(item: int) -> bytes:
    return _INT8(8, item)


def _float8(item: float) -> bytes:
    return _FLOAT8(8, item)


class _Packed(Dumper):
    """A list whose items are of one type, or None; `item_oid` is the server's type of them."""

    format = pq.Format.BINARY
    item_oid: ClassVar[int]
    item: ClassVar[Any]  # packs one

    def dump(self, obj: Sequence[Any]) -> bytes:
        item = type(self).item
        if None in obj:
            packed = [_NULL if one is None else item(one) for one in obj]
            return _HEAD(1, 1, self.item_oid, len(obj), 1) + b"".join(packed)
        return _HEAD(1, 0, self.item_oid, len(obj), 1) + b"".join(map(item, obj))


class _Texts(_Packed):
    oid, item_oid, item = 1009, 25, staticmethod(_text)


class _Byteas(_Packed):
    oid, item_oid, item = 1001, 17, staticmethod(_bytea)


class _Int8s(_Packed):
    oid, item_oid, item = 1016, 20, staticmethod(_int8)


class _Float8s(_Packed):
    oid, item_oid, item = 1022, 701, staticmethod(_float8)


_OF: Final[dict[type, type[_Packed]]] = {
    str: _Texts,
    bytes: _Byteas,
    int: _Int8s,
    float: _Float8s,
}


class ListDumper(ListBinaryDumper):
    """The driver's, but for lists that `_Packed` knows. A list's first item tells its type."""

    def get_key(self, obj: list[Any], format: PyFormat) -> Any:
        kind = _kind(obj)
        return (self.cls, kind) if kind in _OF else super().get_key(obj, format)

    def upgrade(self, obj: list[Any], format: PyFormat) -> Any:
        packed = _OF.get(_kind(obj))
        return super().upgrade(obj, format) if packed is None else packed(self.cls, self._tx)


def _kind(items: list[Any]) -> type:
    for item in items:
        if item is not None:
            return type(item)
    return type(None)
