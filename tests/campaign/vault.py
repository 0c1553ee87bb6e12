"""The judge of backups: which generations a target has at the end, what is in them, and when others were removed.

As ``checker``, it reads only what the simulated servers have written down and what they have; of the jobs it is told
how each ended.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from common.domain.drill import Drill
from tests.campaign.scenario import Machine
from tests.simulator import Entry, Fleet
from tests.simulator.model import Data, Instance

_STATE, _OF = "user.herder-backup-state", "user.herder-backup-of"
_AT = "user.herder-backup-at"
_MARK = "user.herder."
_DEVICES = {
    "root": {"type": "disk", "path": "/", "pool": "default"},
    "herder-guard": {"type": "unix-char", "source": "/dev/herder-guard", "path": "/dev/herder-guard"},
}
_DEFINITION = {"profiles": [], "config": {"limits.memory": "1GiB", "raw.lxc": "of the source"}}
_EARLIER = -1
_OLD = -1000  # the version of what was backed up then


def back_up_earlier(fleet: Fleet, machine: Machine, source: Instance) -> None:
    """The target has a complete generation of an earlier night, and nothing else: its staging copy was lost."""
    order = machine.order(_EARLIER)
    config = {
        "boot.autostart": "false",
        "user.herder-backup": order.policy,
        _OF: machine.origin,
        "user.herder-backup-at": order.at.isoformat(),
        _STATE: "complete",
        "user.herder-backup-definition": json.dumps({**_DEFINITION, **_keep(fleet, machine)}),
        "raw.lxc": "somebody has put it here",
    }
    size = machine.mib * 1024**2
    made = fleet.launch(machine.target, machine.earlier, size=size, config=config, devices=_DEVICES, runs=False)
    assert source.data
    made.profiles, made.guest = [], machine.guest
    made.data = Data(source.data.generation, _OLD, source.data.size)


def _keep(fleet: Fleet, machine: Machine) -> dict[str, object]:
    """What the definition tells of the volumes that are beside the earlier generation."""
    order, told, devices = machine.order(_EARLIER), [], {}
    for place in machine.shelves:
        pool, name = place.split("/")
        kept = fleet.add_volume(machine.target, order.volume_of(machine.origin, place), size=machine.mib * 1024**2)
        was = {"pool": pool, "name": name, "description": "", "config": {"user.tier": "1"}}
        assert kept.data
        kept.data = replace(kept.data, version=_OLD)
        kept.snapshots.clear()
        kept.config |= {
            "user.herder-backup": order.policy,
            _OF: machine.origin,
            _AT: order.at.isoformat(),
            "user.herder-backup-volume": json.dumps(was),
        }
        told.append({"pool": pool, "name": name, "kept_in": pool, "kept_as": kept.name})
        devices[name] = {"type": "disk", "path": f"/{name}", "pool": pool, "source": name}
    return {"volumes": told, "expanded_devices": devices}


def check_backups(fleet: Fleet, machine: Machine, states: Mapping[str, str], *, forgets: bool) -> list[str]:
    """The newest complete generation is never harmed, and each has the data of its night's snapshot."""
    found = [*_check_removals(fleet, machine), *check_hooks(fleet, machine)]
    there = {each.name: each for each in fleet.servers[machine.target].instances.values() if _is_of(each, machine)}
    complete = {name: each for name, each in there.items() if each.config[_STATE] == "complete"}
    if not complete:
        found.append(f"{machine.name} has no good backup any more on {machine.target}: {sorted(there)}")
    found += [line for each in complete.values() for line in _check_data(fleet, machine, each)]
    for name, state in states.items():
        is_kept = not machine.keeps or name in sorted({*states, *complete})[-machine.keeps :]
        if state == "done" and is_kept and name not in complete:
            found.append(f"the backup {name} is done and not there")
        if state == "cancelled" and name in complete and not forgets:
            found.append(f"the backup {name} was cancelled and is there")
    found += [line for each in complete.values() for line in _check_volumes(fleet, machine, each)]
    has_parked = "parked" in states.values()
    if not forgets and not has_parked:
        found += _check_left_volumes(
            fleet, machine, {each.config[_AT] for each in there.values() if _AT in each.config}
        )
        making = sorted(name for name, each in there.items() if each.config[_STATE] == "making")
        found += [f"the unfinished generation {name} is left" for name in making]
        staging = [each for each in there.values() if each.config[_STATE] == "staging"]
        found += [f"{each.name} is still held by {each.config[f'{_MARK}job']}" for each in staging if _is_held(each)]
    return found


def check_archive(fleet: Fleet, machine: Machine, states: list[str]) -> list[str]:
    """A file that counts has the data of the run's snapshot; nothing but that snapshot is left on the source."""
    found, server = list(check_hooks(fleet, machine)), fleet.servers[machine.source]
    folder = Path(machine.target)
    there = sorted(each.name for each in folder.iterdir())
    counted = [json.loads((folder / name).read_text()) for name in there if name.endswith(".json")]
    if not counted and ("done" in states or there):
        found.append(f"the job is {states}, and the archive has {there}")
    (order,) = machine.orders
    taken = server.instances["default", machine.name].snapshots.get(order.snapshot)
    for manifest in counted:
        inside = fleet.kept(int((folder / manifest["file"]).read_text()))
        if taken is None or inside.data is None or inside.data.torn or inside.data != taken.data:
            found.append(f"{manifest['file']} has {inside.data}, and its snapshot {taken and taken.data}")
        told = [key for key in manifest["config"] if key.startswith("user.herder")]
        found += [f"{manifest['file']} tells of {told}"] if told else []
    left = [name for _, name in server.instances if name != machine.name]
    found += [f"{name} is left on {server.name}" for name in left]
    has_backups = server.instances["default", machine.name].backups
    return [*found, *([f"{machine.name} has backups: {[*has_backups]}"] if has_backups else [])]


def check_drills(fleet: Fleet, machine: Machine, states: Mapping[str, str]) -> list[str]:
    """The generation is as it was and tells how its drill ended; what was started was alone, and is gone."""
    server = fleet.servers[machine.target]
    generation = server.instances["default", machine.earlier]
    found = list(_check_data(fleet, machine, generation))
    left = sorted(name for _, name in server.instances if name != machine.earlier)
    found += [f"{name} is left over" for name in left]
    volumes = {volume.name: volume for volume in server.pools["default"].volumes.values()}
    kept = {machine.order(_EARLIER).volume_of(machine.origin, place) for place in machine.shelves}
    found += [f"volume {name} is left over or gone" for name in sorted(volumes.keys() ^ kept)]
    written = [name for name in kept & volumes.keys() if (data := volumes[name].data) is None or data.version != _OLD]
    found += [f"volume {name} was written into" for name in written]
    outcome = Drill.read(generation.config.get("user.herder-backup-drill", ""))
    if "done" in states.values() and not (outcome and outcome.succeeded):
        found.append(f"the drill is done, and the generation tells of {outcome}")
    started = [entry for entry in fleet.history() if entry.kind == "started" and entry.server == machine.target]
    if "parked" in states.values() and not (outcome and not outcome.succeeded and outcome.reason):
        found.append(f"the drill has failed, and the generation tells of {outcome}")
    if "done" in states.values() and not started:
        found.append("nothing was started")
    for entry in started:
        before = [e for e in server.history.of(entry.instance, "configured", "created") if e.at <= entry.at]
        told = before[-1].detail
        disks = {"root", *(place.partition("/")[2] for place in machine.shelves)}
        if set(told["devices"]) != disks or told.get("profiles") or "raw.lxc" in told["config"]:
            found.append(f"{entry.instance} was started with {told}")
    return found


def _is_of(instance: Instance, machine: Machine) -> bool:
    return instance.config.get(_OF) == machine.origin and "-wreck-" not in instance.name


def _is_held(instance: Instance) -> bool:
    return bool(instance.config.get(f"{_MARK}job"))


def _check_data(fleet: Fleet, machine: Machine, generation: Instance) -> Iterator[str]:
    """Stopped, guarded, whole, and equal to the snapshot that the source still has; or the one of before the trial."""
    name = generation.name
    if generation.is_alive or "herder-guard" not in generation.devices or generation.profiles not in ([], ["default"]):
        yield f"the generation {name} is {generation.status} with {sorted(generation.devices)}"
    if generation.data is None or generation.data.torn:
        yield f"the generation {name} has no whole data: {generation.data}"
        return
    orders = {order.generation_of(machine.origin): order for order in machine.orders}
    if name not in orders:
        if generation.data.version != _OLD:
            yield f"the generation {name} of before has {generation.data.token} now"
        return
    source = fleet.servers[machine.source].instances["default", machine.name]
    taken = source.snapshots.get(orders[name].snapshot)
    token = taken.data.token if taken is not None and taken.data is not None else "nothing"
    if generation.data.token != token:
        yield f"the generation {name} has {generation.data.token}, and its snapshot {token}"


def _check_volumes(fleet: Fleet, machine: Machine, generation: Instance) -> Iterator[str]:
    """Beside each generation there is a whole copy of each volume, of the moment of its snapshot and no later."""
    order = next((o for o in machine.orders if o.generation_of(machine.origin) == generation.name), None)
    if order is None:
        return
    source, target = (fleet.servers[name].pools["default"].volumes for name in (machine.source, machine.target))
    for place in machine.shelves:
        kept = target.get(("default", order.volume_of(machine.origin, place)))
        if kept is None or kept.data is None or kept.data.torn:
            yield f"the generation {generation.name} has no whole copy of {place}: {kept and kept.data}"
            continue
        taken = source["default", place.partition("/")[2]].snapshots.get(order.snapshot)
        if taken is not None and taken.token != kept.data.token:
            yield f"the copy of {place} in {generation.name} has {kept.data.token}, and its snapshot {taken.token}"
        if generation.data is not None and kept.data.version > generation.data.version:
            yield f"the copy of {place} in {generation.name} is newer than that"


def _check_left_volumes(fleet: Fleet, machine: Machine, moments: set[str]) -> Iterator[str]:
    """Nothing that was sent is left on the source, and no volume without a generation on the target."""
    for server in (machine.source, machine.target):
        for volume in fleet.servers[server].pools["default"].volumes.values():
            if volume.config.get(_OF) != machine.origin:
                continue
            if server == machine.source:
                yield f"what was sent in place of a volume is left, {volume.name}"
            elif volume.config[_AT] not in moments:
                yield f"{volume.name} is left of a generation that is not there"


def check_hooks(fleet: Fleet, machine: Machine) -> Iterator[str]:
    """Each snapshot of a run was made when its instance was quiet, and in the end none is."""
    if not machine.hook.lines:
        return
    lines = {"\n".join(machine.hook.before): True, "\n".join(machine.hook.after): False}
    is_quiet, snapshots = False, {order.snapshot for order in machine.orders}
    for entry in fleet.servers[machine.source].history.of(machine.name, "executed", "snapshot-created"):
        if entry.kind == "executed":
            is_quiet = lines[entry.detail["command"][-1]]
        elif entry.detail["snapshot"] in snapshots and not is_quiet:
            yield f"{entry.detail['snapshot']} was made when {machine.name} was not quiet, at {entry.at:.2f} s"
    source = fleet.servers[machine.source].instances["default", machine.name]
    if is_quiet:
        yield f"{machine.name} was left quiet"
    if f"{_MARK}hook" in source.config:
        yield f"{machine.name} still says that it is quiet"


def _check_removals(fleet: Fleet, machine: Machine) -> Iterator[str]:
    """A complete generation goes only when the policy has more than it keeps, and a newer one is complete."""
    complete = {machine.earlier}
    for entry in fleet.history():
        if entry.server != machine.target:
            continue
        if entry.kind == "configured" and _tells_complete(entry, machine):
            complete.add(entry.instance)
        elif entry.kind == "deleted" and entry.instance in complete:
            complete.discard(entry.instance)
            newer = [name for name in complete if name > entry.instance]
            if not machine.keeps or len(newer) < machine.keeps:
                yield f"the good backup {entry.instance} was removed with {newer} beside it, at {entry.at:.2f} s"


def _tells_complete(entry: Entry, machine: Machine) -> bool:
    config = entry.detail["config"]
    return bool(config.get(_STATE) == "complete" and config.get(_OF) == machine.origin)
