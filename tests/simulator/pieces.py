"""Which volumes of an instance a transfer sends, and how many bytes of each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulator.model import Data, Instance, Snapshot, difference

if TYPE_CHECKING:
    from tests.simulator.server import Server

#: What a stream costs beside its data.
OVERHEAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """One volume on its way; ``snapshot`` is its name, ``""`` for the main volume."""

    snapshot: str
    bytes: int
    data: Data


def sends_deltas(server: "Server", instance: Instance, target: "Server", copy: Instance) -> bool:
    """Whether only what has changed between two snapshots is sent; else rsync compares every file."""
    source_pool, target_pool = server.pools[instance.pool], target.pools[copy.pool]
    return source_pool.sends_deltas and source_pool.driver == target_pool.driver


def missing(instance: Instance, copy: Instance, *, deltas: bool) -> list[Snapshot]:
    """The snapshots that the copy lacks, oldest first."""
    return [
        each
        for each in sorted(instance.snapshots.values(), key=lambda each: each.created_at)
        if not _is_same(each, copy.snapshots.get(each.name), ignores_phantoms=deltas)
    ]


def pieces(instance: Instance, copy: Instance, lacking: list[Snapshot], *, deltas: bool) -> list[Piece]:
    """The missing snapshots and then the main volume, each as its difference from what the target has by then."""
    main = instance.data
    if main is None:
        return []
    held = [each.data for each in instance.snapshots.values() if each not in lacking]
    parent = copy.data if not deltas else (held[-1] if held else None)
    found = []
    for each in lacking:
        if each.data is not None:
            found.append(Piece(each.name, OVERHEAD + difference(each.data, parent, instance.guest), each.data))
            parent = each.data
    # LXD 5.0.2 on btrfs finds a parent for the main volume only among the snapshots that it sends along.
    whole = deltas and not lacking
    size = main.size if whole else difference(main, parent, instance.guest)
    return [*found, Piece("", OVERHEAD + size, main)]


def _is_same(ours: Snapshot, theirs: Snapshot | None, *, ignores_phantoms: bool) -> bool:
    """Whether a target has a snapshot already; on dir, LXD takes a record without data for one."""
    if theirs is None or int(ours.created_at) != int(theirs.created_at):
        return False
    return theirs.data is not None or not ignores_phantoms
