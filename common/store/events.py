"""The story of a plan: an append-only stream of small dicts, for ``herder watch`` and for the post-mortem."""

from typing import Any

import msgpack
from redis import Redis

from common.store.keys import Keys


def pack_event(**fields: Any) -> bytes:
    """One event as ``commit`` takes it."""
    return msgpack.packb(fields)  # type: ignore[no-any-return]


class EventStore:
    """Reads the events of plans; they are written with the checkpoints, in the same script."""

    def __init__(self, client: "Redis", keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def last(self, plan_id: str) -> str:
        """The id of the newest event, ``"0"`` if there is none."""
        newest: Any = self._client.xrevrange(self._keys.events(plan_id), count=1)
        return newest[0][0].decode() if newest else "0"

    def read(self, plan_id: str, after: str = "0") -> list[tuple[str, dict[str, Any]]]:
        """Events after the given one, oldest first, as ``(id, fields)``."""
        entries: Any = self._client.xrange(self._keys.events(plan_id), min=f"({after}" if after != "0" else "-")
        return [(entry_id.decode(), msgpack.unpackb(fields[b"event"])) for entry_id, fields in entries]
