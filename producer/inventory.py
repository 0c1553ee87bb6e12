"""Remotes -> Fleet: asks every server that a request names, all at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from common.config import Settings
from common.domain.errors import HerderError, InputError, ServerRefused, ServerUnreachable
from common.domain.fleet import Fleet, Room, Server
from common.domain.instance import Instance
from common.domain.plan import Request, Selection
from common.lxd.client import LxdClient
from common.lxd.connect import connect
from common.lxd.remotes import Remotes
from common.lxd.survey import survey, told_of_definitions, told_of_machines, tried, volumes_at
from producer.planner import members_for

_ASKED_AT_A_TIME = 8


def take_inventory(request: Request, remotes: Remotes, settings: Settings) -> Fleet:
    """The source and all targets as they are now.

    Raises UnknownRemote, ServerUnreachable for all that do not answer, and InputError for those that do not trust us.
    """
    names = tuple(dict.fromkeys((request.select.source, *request.targets)))
    known = [remotes.get(name) for name in names]
    selected = request.select
    projects = None if selected.all_projects else (selected.project, request.project_on_target(selected.project))

    def client_of(name: str) -> LxdClient:
        return connect(remotes.get(name), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout)

    def look(name: str) -> Server | HerderError:
        try:
            return survey(client_of(name), projects=projects)
        except HerderError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, len(known))) as pool:
        seen = list(pool.map(look, names))
    failed = [error for error in seen if isinstance(error, HerderError)]
    silent = [error for error in failed if isinstance(error, ServerUnreachable)]
    if silent:
        raise ServerUnreachable(
            "; ".join(error.message for error in silent), hint="nothing has moved; see that the server is up"
        )
    if failed:
        raise InputError("; ".join(error.message for error in failed), hint=failed[0].hint)
    servers = [server for server in seen if isinstance(server, Server)]
    untrusted = [server.remote for server in servers if not server.info.trusted]
    if untrusted:
        raise InputError(
            f"{', '.join(untrusted)}: the server does not trust our client certificate",
            hint=f"make a token there (`lxc config trust add`), then `herder remote add {untrusted[0]} TOKEN`",
        )
    source, *targets = servers
    configs = [request.overrides_of(instance.name).over(instance.own_config) for instance in source.instances]
    if any(instance.is_virtual_machine for instance in source.instances):
        source, *targets = (told_of_machines(client_of(server.remote), server) for server in servers)
    if request.overrides.create:
        source = told_of_definitions(client_of(source.remote), source)
    asked = [tried(client_of(target.remote), target, source.info, configs) for target in targets]
    goes_somewhere = request.targets or request.members
    clusters = (asked or [source]) if goes_somewhere else []
    wanted = [(server, name) for server in clusters for name in members_for(request, server)]

    def look_at(there: tuple[Server, str]) -> Server:
        server, name = there
        return _member(client_of(server.remote), server, name)

    with ThreadPoolExecutor(max_workers=_ASKED_AT_A_TIME) as pool:
        members = list(pool.map(look_at, wanted))
    return Fleet(
        seen_at=datetime.now(UTC),
        servers={server.place: server for server in (source, *asked, *members)},
        matching=_matching(selected, client_of) if selected.filter else None,
    )


def _member(client: LxdClient, cluster: Server, name: str) -> Server:
    """A member of a cluster, with what is its own; one that cannot take anything is not asked for that."""
    there, volumes = cluster.members.get(name), volumes_at(name, cluster.volumes.values())
    if there is None or there.status != "Online":
        return replace(cluster, member=name, volumes=volumes)
    at = client.at(name)
    pools = {pool.name: pool for pool in at.pools()}
    networks = {project: at.networks(project=project) for project in cluster.networks}
    return replace(cluster, member=name, info=at.info(), pools=pools, networks=networks, volumes=volumes)


def backup_needs(
    instances: Sequence[Instance], remote: str, remotes: Remotes, settings: Settings
) -> tuple[Room | None, dict[tuple[str, str], tuple[int, int]]]:
    """Where a server writes backups, and of each instance, by project and name, the bytes used and its snapshots."""
    client = connect(remotes.get(remote), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout)

    def look(instance: Instance) -> tuple[int, int]:
        used = client.used_space(instance.name, project=instance.project)
        return used, len(client.snapshots(instance.name, project=instance.project))

    with ThreadPoolExecutor(max_workers=_ASKED_AT_A_TIME) as pool:
        found = list(pool.map(look, instances))
    needs = {(i.project, i.name): need for i, need in zip(instances, found, strict=True)}
    return client.room_for_backups(), needs


def _matching(selection: Selection, client_of: Callable[[str], LxdClient]) -> frozenset[tuple[str, str]]:
    """What the source's own filter lets through. Raises InputError for a filter that it cannot read."""
    project = None if selection.all_projects else selection.project
    try:
        found = client_of(selection.source).instances(project, matching=selection.filter)
    except ServerRefused as refused:
        raise InputError(
            f"filter {selection.filter!r}: {refused.message}",
            hint="write it as LXD does, for example: config.user.tier eq web and status eq Running",
        ) from refused
    return frozenset((instance.project, instance.name) for instance in found)
