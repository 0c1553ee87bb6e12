"""What happens on a server, as it happens.

A server repeats nothing: what happens while nobody listens is lost. So events only tell when to look; the truth is
asked for through ``client``.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import websocket

from common.domain.errors import ServerUnreachable
from common.domain.operation import Operation
from common.lxd import faults, records
from common.lxd.transport import Transport

# "c1/s0: 441.19MB (108.91MB/s)"; LXD counts in powers of 1000.
_PROGRESS = re.compile(
    r"(?P<volume>.+): (?P<done>[\d.]+)(?P<unit>[kMGTPE]?)B \((?P<rate>[\d.]+)(?P<per>[kMGTPE]?)B/s\)"
)
_FACTORS: dict[str, int] = {prefix: 1000**power for power, prefix in enumerate(("", *"kMGTPE"))}


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event. ``kind`` is ``operation`` or ``lifecycle``; only the first has an ``operation``.

    ``location`` is the cluster member, ``none`` for a server that stands alone. The ``metadata`` of a lifecycle has an
    ``action`` like ``instance-started`` and a ``source``, the path of the thing; an operation's may hold secrets.
    """

    kind: str
    project: str
    location: str
    timestamp: datetime
    metadata: Mapping[str, Any] = field(repr=False)
    operation: Operation | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How much of one volume was sent, and at what mean speed. The server does not tell how much there is."""

    volume: str
    bytes: int
    bytes_per_second: int


def events(
    transport: Transport,
    *,
    types: Sequence[str] = ("operation", "lifecycle"),
    project: str | None = None,
    idle_timeout: float = 25.0,
) -> Iterator[Event]:
    """The events of one project, or of all that we may see. The connection is made before this returns.

    Ends only by ServerUnreachable, when the connection breaks or nothing comes for ``idle_timeout`` seconds; LXD pings
    every 10 s. One member of a cluster tells what happens on all.
    """
    where = {"all-projects": "true"} if project is None else {"project": project}
    connection = transport.websocket("/1.0/events", {"type": ",".join(types), **where})
    connection.settimeout(idle_timeout)
    return _receive(transport.name, connection)


def progress(operation: Operation) -> Progress | None:
    """What a transfer's operation on the source says of its progress; None before the first second is over."""
    found = _PROGRESS.fullmatch(str(operation.metadata.get("fs_progress", "")))
    if not found:
        return None
    return Progress(
        volume=found["volume"],
        bytes=_count(found["done"], found["unit"]),
        bytes_per_second=_count(found["rate"], found["per"]),
    )


def _receive(server: str, connection: websocket.WebSocket) -> Iterator[Event]:
    try:
        while True:
            with faults.translated(server):
                # Control frames are returned too, after a ping was answered: each shows that the link is alive.
                code, payload = connection.recv_data(control_frame=True)
            if code == websocket.ABNF.OPCODE_CLOSE:
                raise ServerUnreachable(f"{server}: closed the event stream")
            if code == websocket.ABNF.OPCODE_TEXT:
                yield _event(json.loads(payload))
    finally:
        connection.close(timeout=0)


def _event(record: records.Record) -> Event:
    metadata = record.get("metadata") or {}
    kind = record["type"]
    return Event(
        kind=kind,
        project=record.get("project") or "default",
        location=record.get("location") or "",
        timestamp=records.moment(record["timestamp"]),
        metadata=metadata,
        operation=records.operation(metadata) if kind == "operation" else None,
    )


def _count(number: str, prefix: str) -> int:
    return int(float(number) * _FACTORS[prefix])
