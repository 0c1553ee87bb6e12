"""What has happened on one server, in order, for a checker that asks nobody else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of state.

    ``at`` is virtual time in seconds. ``kind`` is one of

    ``created`` ``deleted`` ``renamed``        a record of an instance (``renamed`` tells the ``old`` name)
    ``started`` ``stopped``                    its processes, with the ``token`` of its data at that moment, and by name
                                               those of the ``volumes`` that it attaches
    ``frozen`` ``unfrozen`` ``written``
    ``executed``                               a ``command`` in it has ended
    ``received``                               data have arrived, ``token``; ``refresh``; ``torn`` if only a part
    ``configured``                             its ``config``, ``devices`` or ``profiles`` after a change
    ``snapshot-created`` ``snapshot-deleted``
    ``volume-created`` ``volume-received`` ``volume-deleted``   a custom volume, under ``POOL/NAME``, with its ``token``
    ``volume-renamed``                         the same under its old name, with the new one as ``to``
    ``profile-created`` ``profile-changed`` ``profile-deleted``
    ``daemon-killed`` ``daemon-stopped`` ``daemon-started`` ``daemon-frozen`` ``daemon-thawed``
    ``fault``                                  injected from outside

    ``generation`` names the machine: it is the same on both sides of a move and for every copy.
    """

    at: float
    server: str
    kind: str
    instance: str = ""
    project: str = ""
    generation: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


class History(list[Entry]):
    """Append-only by agreement; a list, so that it is cheap."""

    def of(self, instance: str, *kinds: str, project: str = "default") -> list[Entry]:
        """What happened to one instance under this name."""
        return [
            entry
            for entry in self
            if entry.instance == instance and entry.project == project and (not kinds or entry.kind in kinds)
        ]
