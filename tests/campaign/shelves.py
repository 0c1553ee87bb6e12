"""The judge of custom volumes, attached and by themselves: their history, and what is on the servers at the end.

As ``checker``, it reads only what the simulated servers have written down and what they have.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.domain.generation import is_backup_snapshot
from common.domain.volume import COPIED_BY
from tests.campaign.scenario import Box
from tests.simulator import Entry, Fleet
from tests.simulator.model import Volume

if TYPE_CHECKING:
    from tests.campaign.checker import Before, Ending

_MARK = "user.herder."


def check_volumes(fleet: Fleet, was: "Before", ending: "Ending | None") -> list[str]:
    """Each is where its instance lives, as that was stopped, and its last good copy never goes."""
    if not was.volumes:
        return []
    found = [line for name in was.volumes for line in _check_history(fleet, was, name, ending)]
    if ending is not None and ending.state in ("done", "cancelled"):
        found += [line for name in was.volumes for line in _check_end(fleet, name, ending)]
    return found


def _check_history(fleet: Fleet, was: "Before", name: str, ending: "Ending | None") -> list[str]:
    """What runs has the data with which it was stopped, nothing is overwritten under it, and a good one stays."""
    running, good = ({was.server} if was.ran else set()), {was.server}
    last_stop, own_stop = was.volumes[name], dict[str, str]()
    found, place = [], f"default/{name}"
    for entry in _of(fleet, was, place, ending):
        where, at = entry.server, f"at {entry.at:.2f} s"
        if entry.kind == "started":
            token = entry.detail["volumes"].get(name)
            wanted = {last_stop} | ({own_stop.get(where)} if ending and ending.back else set())
            if token not in wanted:
                found.append(f"{was.name} was started on {where} with {name} as {token}, not {last_stop}, {at}")
            running.add(where)
            good = {where}
        elif entry.kind == "stopped":
            running.discard(where)
            last_stop = own_stop[where] = entry.detail["volumes"].get(name, "")
            good = {where}
        elif entry.kind in ("volume-received", "volume-renamed"):
            if where in running:
                found.append(f"{name} was overwritten on {where} while it was in use, {at}")
            is_whole = not running and entry.detail["token"] == last_stop
            (good.add if is_whole else good.discard)(where)
        elif entry.kind == "volume-deleted":
            good.discard(where)
            if own_stop.get(where) and not running and was.ran and not (ending and ending.back):
                found.append(f"{name} was deleted on {where} before {was.name} ran elsewhere, {at}")
        if not good:
            found.append(f"{name} has no good copy any more: {entry.kind} on {where}, {at}")
            good = {where}
    return found


def _of(fleet: Fleet, was: "Before", place: str, ending: "Ending | None") -> list[Entry]:
    """What happened to the instance and to this volume after the beginning; not on the target of a copy."""
    kinds = {"started", "stopped", "volume-received", "volume-deleted"}
    found = [e for e in fleet.history() if e.kind in kinds and e.instance in (was.name, place)]
    # What was made of a backup gets its name when it is whole.
    found += [e for e in fleet.history() if e.kind == "volume-renamed" and e.detail["to"] == place]
    found = [e for e in found if not (ending and ending.is_copy and e.server == ending.target)]
    first = next((e for e in found if e.kind == "started"), None) if was.ran else None
    ordered = sorted(found, key=lambda each: (each.at, each.kind != "stopped"))
    return [each for each in ordered if each is not first]


def _left_of_backups(fleet: Fleet, name: str, ending: "Ending") -> list[str]:
    """Backups of a volume, and what was made of one and never got its name.

    The backups of a job that nobody knows any more stay until they expire, or the janitor takes them.
    """
    volumes = [(s.name, v) for s in fleet.servers.values() for v in s.pools["default"].volumes.values()]
    left = [f"{v.name} is left over on {server}" for server, v in volumes if v.name.startswith(f"{name}-import-")]
    having = [(server, v) for server, v in volumes if v.name == name and v.backups and ending.state != "forgotten"]
    return left + [f"{name} has backups on {server}: {[*v.backups]}" for server, v in having]


def _check_end(fleet: Fleet, name: str, ending: "Ending") -> list[str]:
    """Free where it lives, retired or gone where it was, and nothing anywhere else."""
    there = {s.name: v for s in fleet.servers.values() for v in s.pools["default"].volumes.values() if v.name == name}
    home = ending.target if ending.state == "done" and not ending.is_copy else ending.source
    is_copied = ending.is_copy and not ending.is_backup  # the copy of a backup has another name
    lives = {home, *([ending.target] if is_copied and ending.state == "done" else [])}
    found = [f"{name} is not on {server}" for server in lives - set(there)] + _left_of_backups(fleet, name, ending)
    for server, volume in there.items():
        place = f"{name} on {server}"
        if server in lives:
            found += _check_free(place, volume)
        elif not _may_stay(server, volume, ending):
            found.append(f"{place} is left over: {_marks(volume.config)}")
    return found


def _check_free(place: str, volume: Volume) -> list[str]:
    found = [f"{place} has the marks {_marks(volume.config)}"] if _marks(volume.config) else []
    if volume.data is None or volume.data.torn.startswith("+"):
        found.append(f"{place} is broken: {volume.data}")
    if {name for name in volume.snapshots if not is_backup_snapshot(name)} != {"first"}:
        found.append(f"{place} has the snapshots {sorted(volume.snapshots)}")
    return found


def _may_stay(server: str, volume: Volume, ending: "Ending") -> bool:
    """The retired one of a source or of a target that was brought back, and what a wreck holds."""
    if f"{server}:volume {volume.pool}/{volume.name}" in ending.wrecks or ending.may_forget_wrecks:
        return True
    is_retired = volume.config.get(f"{_MARK}state") == "retired"
    keeps = ending.back or (ending.state == "done" and ending.keeps_source and not ending.is_copy)
    return is_retired and keeps and server in (ending.source, ending.target)


def _marks(config: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in config.items() if key.startswith(_MARK)}


@dataclass(frozen=True)
class Inside:
    """What a volume has: its data, those of its snapshots, and its config."""

    token: str
    snapshots: Mapping[str, str]
    config: Mapping[str, str]


@dataclass(frozen=True)
class BoxBefore:
    """A volume that goes by itself, as it was when the trial began; ``old`` is what it replaces."""

    box: Box
    inside: Inside
    old: Inside | None


def boxes_before(fleet: Fleet, boxes: Iterable[Box]) -> tuple[BoxBefore, ...]:
    """Each with what is on both servers."""
    found = []
    for box in boxes:
        inside, old = _inside(fleet, box.source, box.name), _inside(fleet, box.target, box.name)
        assert inside
        found.append(BoxBefore(box, inside, old))
    return tuple(found)


def check_boxes(fleet: Fleet, were: Iterable[BoxBefore], endings: "Iterable[Ending]") -> list[str]:
    """What is wrong with volumes that went by themselves."""
    known = {ending.instance: ending for ending in endings}
    found = []
    for was in were:
        found += _check_never_lost(fleet, was)
        ending = known.get(was.box.place)
        if ending is not None and ending.state != "parked":
            found += _check_box(fleet, was, ending)
    return found


def _check_never_lost(fleet: Fleet, was: BoxBefore) -> list[str]:
    """At every moment somebody has it whole; and the target has, whole, what was there or what came instead."""
    has = {(was.box.source, was.box.place): was.inside.token}
    if was.old is not None:
        has[was.box.target, was.box.place] = was.old.token
    found = []
    for entry in _of_box(fleet, was.box):
        where = (entry.server, entry.instance)
        if entry.kind == "volume-received":
            has[where] = entry.detail["token"]
        elif entry.kind == "volume-deleted":
            has.pop(where, None)
        elif entry.kind == "volume-renamed" and where in has:
            has[entry.server, entry.detail["to"]] = has.pop(where)
        on_target = [token for (server, _), token in has.items() if server == was.box.target]
        wanted = {was.inside.token, *([was.old.token] if was.old else [])}
        if was.inside.token not in has.values():
            found.append(f"{was.box.name} is nowhere whole any more: {entry.kind} on {entry.server}, {entry.at:.2f} s")
        if was.old is not None and not wanted & set(on_target):
            found.append(f"what {was.box.name} was is lost: {entry.kind} on {entry.server}, {entry.at:.2f} s")
    return found


def _of_box(fleet: Fleet, box: Box) -> list[Entry]:
    """Under all the names that it has had; not its making."""
    kinds = {"volume-received", "volume-deleted", "volume-renamed"}
    names = (box.place, f"{box.place}-copy-", f"{box.place}-kept-", f"{box.place}-import-")
    found = [e for e in fleet.history() if e.kind in kinds and e.instance.startswith(names)]
    return sorted(found, key=lambda each: each.at)


def _check_box(fleet: Fleet, was: BoxBefore, ending: "Ending") -> list[str]:
    """Done, the target has it and the source is dealt with; cancelled, both are as they were; nothing else is left."""
    box, source, target = was.box, was.box.source, was.box.target
    now = {s.name: {v.name: v for v in s.pools["default"].volumes.values()} for s in fleet.servers.values()}
    left = [
        f"volume {name} is left over on {server}"
        for server, volumes in now.items()
        for name in volumes
        if name.startswith((f"{box.name}-copy-", f"{box.name}-kept-"))
        and f"{server}:volume default/{name}" not in ending.wrecks
    ]
    left += _left_of_backups(fleet, box.name, ending)
    here, there = now[source].get(box.name), _inside(fleet, target, box.name)
    moved = _done(was)
    is_done = there is not None and Inside(there.token, there.snapshots, _own(there.config)) == moved
    is_as_it_was = there == was.old
    told = f"{box.name}, {ending.state}, is {there} on {target}"
    if not {"done": is_done, "cancelled": is_as_it_was}.get(ending.state, is_done or is_as_it_was):
        return [*left, told]
    if is_done and not is_as_it_was and not box.method.is_copy:
        is_retired = here is not None and here.config.get(f"{_MARK}state") == "retired"
        if not (is_retired if ending.keeps_source else here is None):
            left.append(f"the source of {box.name} is {here.config if here else 'not there'} on {source}")
    elif _inside(fleet, source, box.name) != was.inside:
        left.append(f"the source of {box.name} is not as it was: {_inside(fleet, source, box.name)}")
    return left


def _done(was: BoxBefore) -> Inside:
    """What replaces another one keeps the config of that."""
    return Inside(was.inside.token, was.inside.snapshots, (was.old or was.inside).config)


def _own(config: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in config.items() if key != COPIED_BY}


def _inside(fleet: Fleet, server: str, name: str) -> Inside | None:
    found = fleet.servers[server].pools["default"].volumes.get(("default", name))
    if found is None:
        return None
    snapshots = {key: data.token for key, data in found.snapshots.items()}
    return Inside(found.data.token if found.data else "nothing", snapshots, dict(found.config))
