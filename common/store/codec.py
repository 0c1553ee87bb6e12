"""Domain values <-> msgpack, by the types of the dataclasses themselves."""

from typing import Any, TypeVar, cast

import msgpack
from pydantic import TypeAdapter

T = TypeVar("T")


#: Building an adapter costs milliseconds, using one microseconds.
_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def to_plain(value: object) -> Any:
    """The value as dicts, lists, strings and numbers, fit for JSON, YAML and msgpack."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_plain(kind: type[T], plain: Any) -> T:
    """The value of this type. Raises pydantic.ValidationError."""
    return cast("T", _adapter(kind).validate_python(plain))


def encode(value: object) -> bytes:
    """The value as msgpack."""
    return cast("bytes", msgpack.packb(to_plain(value)))


def decode(kind: type[T], data: bytes) -> T:
    """The value of this type from msgpack."""
    return from_plain(kind, msgpack.unpackb(data))
