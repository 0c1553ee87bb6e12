"""Generations -> requests that make instances of them: which are meant, and what each instance is made of. Pure.

A restore is a copy of a generation, with what its definition tells in place of what the generation is: config,
devices and profiles. Called by ``herder backup restore``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from common.domain.drill import BACKUP_DRILL
from common.domain.eligibility import on_target
from common.domain.errors import InputError
from common.domain.fleet import Definition, Fleet, Profile
from common.domain.generation import (
    BACKUP,
    BACKUP_AT,
    BACKUP_DEFINITION,
    BACKUP_OF,
    EMPTY_PROFILE,
    Generation,
)
from common.domain.instance import (
    BACKUP_STATE,
    COPY_OF,
    FAILED_OVER,
    INSTANCE_ID,
    INSTANCE_ID_MARK,
    is_root_disk,
)
from common.domain.plan import Limits, Method, Mode, Overrides, Own, Plan, Policy, Request, Selection, Thing
from common.domain.volume import AttachedVolume
from producer.planner import UNUSED_MAP

_OF_BACKUPS = (BACKUP, BACKUP_OF, BACKUP_AT, BACKUP_STATE, BACKUP_DEFINITION, BACKUP_DRILL, COPY_OF)
_A_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PRIORITY = "boot.autostart.priority"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How instances are made: ``overrides`` before the definition's; ``bakes`` the profiles into each instance."""

    to: str = ""  # the remote; "": that which the instance was on
    name: str = ""
    project: str = ""
    overrides: Overrides = field(default_factory=Overrides)
    bakes: bool = False
    keeps_addresses: bool = False
    takes_place: bool = False  # of the instance that was backed up, as the machine that it was
    mode: Mode = Mode.AUTO
    rate: int = 0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Chosen:
    """A generation, and the definition that it bears."""

    generation: Generation
    definition: Mapping[str, Any]


def choose(found: Iterable[Generation], source: str, instance: str, at: datetime | None) -> list[Generation]:
    """Of each instance meant the newest generation that is no newer than ``at``.

    ``source`` is the remote that was backed up, or that has the generations; ``instance`` a name there, that of a
    generation, or ``""`` for all. Raises InputError if there is none.
    """
    old_enough = [each for each in found if at is None or each.at <= at]
    by_name = [each for each in old_enough if instance and each.name == instance and each.remote == source]
    meant = [each for each in old_enough if each.source.startswith(f"{source}:") and instance in ("", each.instance)]
    newest: dict[str, Generation] = {}
    for each in by_name or meant:
        known = newest.get(each.source)
        if known is None or each.at > known.at:
            newest[each.source] = each
    if not newest:
        when = f" of {at:%Y-%m-%d %H:%M} UTC or before" if at else ""
        raise InputError(f"there is no generation of {source}:{instance}{when}", hint="`herder backup list`")
    return list(newest.values())


def requests(chosen: Sequence[Chosen], wanted: Wanted) -> list[Request]:
    """One for each server and project that has generations, and each target that they go to. Raises InputError."""
    if wanted.name and len(chosen) != 1:
        raise InputError(f"--as needs exactly one instance; {len(chosen)} are selected")
    groups: dict[_Way, list[Chosen]] = {}
    for each in chosen:
        remote, _, rest = each.generation.source.partition(":")
        project = wanted.project or wanted.overrides.map.projects.get(rest.partition("/")[0], rest.partition("/")[0])
        way = _Way(each.generation.remote, each.generation.project, wanted.to or remote, project)
        groups.setdefault(way, []).append(each)
    return [_request(way, group, wanted) for way, group in groups.items()]


class _Way(NamedTuple):
    remote: str
    project: str
    target: str
    target_project: str


def _request(way: _Way, group: Sequence[Chosen], wanted: Wanted) -> Request:
    names = [wanted.name or each.definition["name"] for each in group]
    return Request(
        name=_title(names, way, wanted),
        select=Selection(
            source=way.remote, project=way.project, instances=tuple(each.generation.name for each in group)
        ),
        targets=(way.target,),
        target_project=way.target_project,
        policy=Policy(
            method=Method.FAILOVER if wanted.takes_place else Method.COPY, mode=wanted.mode, rate=wanted.rate
        ),
        limits=wanted.limits,
        # What has other names on the target is called so here, where it is known what is a name of the source's.
        overrides=replace(wanted.overrides, config={}, devices={}, profiles=None, storage=""),
        each={each.generation.name: _own(each, name, wanted) for each, name in zip(group, names, strict=True)},
    )


def _title(names: Sequence[str], way: _Way, wanted: Wanted) -> str:
    told = f"{', '.join(names[:3])}{' and others' if names[3:] else ''}"
    return f"failover of {told} on {way.remote}" if wanted.takes_place else f"restore {told} from {way.remote}"


def _own(chosen: Chosen, name: str, wanted: Wanted) -> Own:
    """What one instance is made of, with the volumes that were backed up with it and that it shall attach.

    One that gets another name does not get volumes of the names that the other one's have.
    """
    definition, source = chosen.definition, chosen.generation.source
    ending = f"-{wanted.name}" if wanted.name else ""
    volumes, renamed = [], {}
    for each in definition.get("volumes", ()):
        pool = wanted.overrides.map.pools.get(each["pool"], each["pool"])
        volume = AttachedVolume(
            pool=each["kept_in"], name=each["kept_as"], target_pool=pool, new_name=f"{each['name']}{ending}"
        )
        volumes.append(volume)
        renamed[pool, each["name"]] = volume.target_name
    overrides = _overrides(definition, wanted, renamed, source)
    attached = {(device.get("pool"), device.get("source")) for device in overrides.devices.values()}
    return Own(
        name=name,
        overrides=overrides,
        volumes=tuple(each for each in volumes if (each.target_pool, each.target_name) in attached),
    )


def _overrides(
    definition: Mapping[str, Any], wanted: Wanted, renamed: Mapping[tuple[str, str], str], source: str
) -> Overrides:
    """All that the instance was, in the target's names, with what shall differ; ``renamed`` are volumes."""
    names, profiles = wanted.overrides.map, definition["profiles"] if wanted.bakes else ()
    config = {key: value for profile in profiles for key, value in profile["config"].items()}
    config |= {
        key: value
        for key, value in definition["config"].items()
        if not key.startswith("volatile.") or (wanted.keeps_addresses and key.endswith(".hwaddr"))
    }
    forgotten = dict.fromkeys((*_OF_BACKUPS, "boot.autostart"), "")
    devices = definition["expanded_devices" if wanted.bakes else "devices"]
    root: Mapping[str, str] = next((each for each in definition["expanded_devices"].values() if is_root_disk(each)), {})
    pool = names.pools.get(root.get("pool", ""), root.get("pool", ""))
    used = tuple(names.profiles.get(each["name"], each["name"]) for each in definition["profiles"])
    own = Overrides(
        config={**forgotten, **config, **_as_the_same(definition, wanted, source)},
        devices={
            name: _attaching(on_target(device, names), renamed)
            for name, device in devices.items()
            if not is_root_disk(device)
        },
        profiles=() if wanted.bakes else used,
        storage=pool,
    )
    return own.with_own(replace(wanted.overrides, map=type(names)(), create=()))


def _as_the_same(definition: Mapping[str, Any], wanted: Wanted, source: str) -> dict[str, str]:
    """To its guest it is the machine that it was, and cloud-init does not set it up anew."""
    if not wanted.takes_place:
        return {}
    # The snapshot has a uuid of its own; where the server gives none, the identity is a time.
    identity = str(definition.get("identity", ""))
    known = {
        "volatile.uuid": identity if _A_UUID.fullmatch(identity) else "",
        INSTANCE_ID_MARK: definition["config"].get(INSTANCE_ID, ""),
    }
    return {FAILED_OVER: source, **{key: value for key, value in known.items() if value}}


def _attaching(device: dict[str, str], renamed: Mapping[tuple[str, str], str]) -> dict[str, str]:
    source = renamed.get((device.get("pool", ""), device.get("source", "")))
    return {**device, "source": source} if source else device


def with_definitions(fleet: Fleet, request: Request, chosen: Sequence[Chosen]) -> Fleet:
    """The fleet as if the server that has the generations had what their definitions tell: project, profiles, networks.

    Raises InputError if the target has, of a profile that is needed, only the empty one that backups need.
    """
    source, target = fleet.servers[request.select.source], fleet.servers[request.targets[0]]
    project, here = request.select.project, [c for c in chosen if c.generation.name in request.each]
    profiles = {
        each["name"]: Profile(
            name=each["name"], description=each["description"], config=each["config"], devices=each["devices"]
        )
        for one in here
        for each in one.definition["profiles"]
    }
    networks = {
        (Thing.NETWORK.value, project, name): Definition(
            driver=each["type"], description=each["description"], config=each["config"]
        )
        for one in here
        for name, each in one.definition["networks"].items()
    }
    of_project = Definition(driver="", **here[0].definition["project_definition"])
    needed = {name for own in request.each.values() for name in own.overrides.profiles or ()}
    there = target.profiles.get(request.target_project, {})
    empty = sorted(n for n in needed if n in there and there[n].description.startswith(EMPTY_PROFILE))
    if empty:
        raise InputError(
            f"profile {', '.join(empty)} of {target.remote} is an empty one, there only for backups of others",
            hint="--no-profiles makes instances that have all that their profiles gave them as their own",
        )
    if source is target:
        return fleet  # what is missing on its own server is not made there
    known = replace(
        source,
        profiles={**source.profiles, project: {**source.profiles.get(project, {}), **profiles}},
        definitions={**source.definitions, **networks, (Thing.PROJECT.value, "", project): of_project},
    )
    return replace(fleet, servers={**fleet.servers, source.place: known})


def in_boot_order(plan: Plan, chosen: Sequence[Chosen]) -> Plan:
    """The plan with its moves in the order in which a server would start the instances.

    What is mapped are names of the definitions', which the planner does not see.
    """
    warnings = tuple(each for each in plan.warnings if not each.endswith(UNUSED_MAP))
    priorities = {each.generation.name: _priority(each.definition) for each in chosen}
    moves = sorted(plan.moves, key=lambda move: (-priorities[move.instance], move.name))
    return replace(plan, moves=tuple(moves), warnings=warnings)


def _priority(definition: Mapping[str, Any]) -> int:
    config = {key: value for profile in definition["profiles"] for key, value in profile["config"].items()}
    told = {**config, **definition["config"]}.get(_PRIORITY, "0")
    return int(told) if told.lstrip("-").isdigit() else 0
