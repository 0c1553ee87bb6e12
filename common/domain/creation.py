"""What an instance needs and the target lacks, to be made there as it is on the source, if that was asked for. Pure.

A definition keeps no trace of its host: a pool gets a loop file or a directory of its own, as large as that of the
source. ``producer.placement`` decides what will be made, and ``workers.steps.creating`` makes it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from common.domain.eligibility import attached_volumes, expanded_on_target, on_target, wanted_pool, wanted_profiles
from common.domain.fleet import Definition, Pool, Profile, Server
from common.domain.instance import Devices, Instance
from common.domain.plan import Creation, Move, Thing

#: Networks and pools that a definition is enough for; all others hang on something of their host or of a cluster.
_NETWORKS = frozenset({"bridge"})
_POOLS = frozenset({"btrfs", "dir", "lvm", "zfs"})
#: What a pool without a disk of its own is made of, by the end of its source: ``/var/lib/lxd/disks/default.img``.
_LOOP_FILE = ".img"
#: Whether a project has things of its own, or those of the default project. LXD's own value for a new one is true.
_OWN_PROFILES, _OWN_NETWORKS = "features.profiles", "features.networks"
_DEFAULT = "default"
#: What belongs to one pool or bridge and not to its definition.
_OF_THE_HOST = ("source", "volatile.", "lvm.vg_name", "lvm.thinpool_name", "zfs.pool_name")


def creations(instance: Instance, move: Move, source: Server, target: Server) -> tuple[Creation, ...]:
    """What has to be made on the target for this move, in this order; only what was asked for and can be."""
    # Each member of a cluster has its own part of a pool or network, of which the definition says nothing.
    asked = {t for t in move.overrides.create if not target.info.clustered or t in (Thing.PROJECT, Thing.PROFILE)}
    if not asked or move.is_refresh:
        return ()
    projects = tuple(_projects(move, source, target)) if Thing.PROJECT in asked else ()
    target = with_created(target, projects, move.target_project)
    if move.target_project not in target.projects:
        return ()
    profiles = tuple(_profiles(instance, move, source, target)) if Thing.PROFILE in asked else ()
    known = with_created(target, profiles, move.target_project).profiles.get(move.target_project, {})
    devices = expanded_on_target(instance, move, known)
    networks = tuple(_networks(devices, move, source, target)) if Thing.NETWORK in asked else ()
    pools = tuple(_pools(instance, move, source, target)) if Thing.POOL in asked else ()
    return (*projects, *pools, *networks, *profiles)


def with_created(target: Server, made: tuple[Creation, ...], project: str) -> Server:
    """The target as it will be."""
    for each in made:
        if each.thing is Thing.PROJECT:
            target = _with_project(target, each)
    profiles = {
        each.name: Profile(name=each.name, config=each.config, devices=each.devices)
        for each in made
        if each.thing is Thing.PROFILE
    }
    networks = {each.name for each in made if each.thing is Thing.NETWORK}
    pools = {each.name: Pool(name=each.name, driver=each.driver) for each in made if each.thing is Thing.POOL}
    return replace(
        target,
        profiles={**target.profiles, project: {**profiles, **target.profiles.get(project, {})}},
        networks={**target.networks, project: target.networks.get(project, frozenset()) | networks},
        pools={**pools, **target.pools},
    )


def _with_project(target: Server, project: Creation) -> Server:
    """Its default profile counts as missing: the server makes an empty one."""
    has_profiles = project.config.get(_OWN_PROFILES, "true") == "true"
    has_networks = project.config.get(_OWN_NETWORKS, "false") == "true"
    return replace(
        target,
        projects=(*target.projects, project.name),
        profiles={**target.profiles, project.name: {} if has_profiles else target.profiles.get(_DEFAULT, {})},
        networks={
            **target.networks,
            project.name: frozenset() if has_networks else target.networks.get(_DEFAULT, frozenset()),
        },
    )


def _projects(move: Move, source: Server, target: Server) -> Iterator[Creation]:
    known = source.definitions.get((Thing.PROJECT, "", move.project))
    if move.target_project in target.projects or known is None:
        return
    # The default project has networks of its own because it has all bridges; another one could only have OVN's.
    config = {key: value for key, value in known.config.items() if (move.project, key) != (_DEFAULT, _OWN_NETWORKS)}
    yield Creation(thing=Thing.PROJECT, name=move.target_project, description=known.description, config=config)


def _profiles(instance: Instance, move: Move, source: Server, target: Server) -> Iterator[Creation]:
    there, names = target.profiles.get(move.target_project, {}), move.overrides.map
    for name in wanted_profiles(instance, move):
        known = source.profiles.get(move.project, {}).get(_on_source(name, names.profiles))
        if name not in there and known is not None:
            devices = {each: on_target(device, names) for each, device in known.devices.items()}
            yield Creation(
                thing=Thing.PROFILE,
                name=name,
                description=known.description,
                config=dict(known.config),
                devices=devices,
            )


def _networks(devices: Devices, move: Move, source: Server, target: Server) -> Iterator[Creation]:
    there = target.networks.get(move.target_project, frozenset())
    wanted = [device.get("network") or device.get("parent") for device in devices.values() if device["type"] == "nic"]
    for name in dict.fromkeys(each for each in wanted if each and each not in there):
        known = source.definitions.get((Thing.NETWORK, move.project, _on_source(name, move.overrides.map.networks)))
        if known is not None and known.driver in _NETWORKS:
            yield _like(Thing.NETWORK, name, known)


def _pools(instance: Instance, move: Move, source: Server, target: Server) -> Iterator[Creation]:
    volumes = attached_volumes(instance, move)
    for name in dict.fromkeys((wanted_pool(instance, move), *(volume.target_pool for volume in volumes))):
        known = source.definitions.get((Thing.POOL, "", _on_source(name, move.overrides.map.pools)))
        if name not in target.pools and known is not None and known.driver in _POOLS and _needs_no_disk(known):
            yield _like(Thing.POOL, name, known)


def _needs_no_disk(pool: Definition) -> bool:
    return pool.driver == "dir" or pool.config.get("source", "").endswith(_LOOP_FILE)


def _like(thing: Thing, name: str, known: Definition) -> Creation:
    config = {key: value for key, value in known.config.items() if not key.startswith(_OF_THE_HOST)}
    return Creation(thing=thing, name=name, driver=known.driver, description=known.description, config=config)


def _on_source(name: str, mapped: Mapping[str, str]) -> str:
    """What the source calls it."""
    return next((there for there, here in mapped.items() if here == name), name)
