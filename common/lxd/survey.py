"""One look at a server: everything that planning and preflight ask about. Called by both sides."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from common.domain.errors import NotFound, NotTrusted
from common.domain.fleet import Server, ServerInfo
from common.domain.instance import Config, Instance
from common.domain.plan import Thing
from common.domain.volume import Volume, Volumes
from common.lxd.client import LxdClient


def survey(client: LxdClient, *, projects: Sequence[str] | None, only: str | None = None) -> Server:
    """The server as it is now, with what is in these projects, or in all with None.

    ``only`` leaves all instances out but the one of this name. Raises ServerUnreachable and NotTrusted.
    """
    info = client.info()
    if not info.trusted:
        return Server(remote=client.remote, info=info)
    known = client.projects()
    seen = [project for project in known if projects is None or project in projects]
    # A project that is made may use what the default one has.
    furnished = seen if projects is None or set(projects) <= {*known} else sorted({*seen, "default"} & {*known})
    return Server(
        remote=client.remote,
        info=info,
        member=client.member,
        members={member.name: member for member in client.members()} if info.clustered else {},
        projects=tuple(known),
        instances=tuple(i for project in seen for i in _instances(client, project, only)),
        pools={pool.name: pool for pool in client.pools()},
        profiles={project: {p.name: p for p in client.profiles(project=project)} for project in furnished},
        networks={project: client.networks(project=project) for project in furnished},
        volumes=volumes_at(client.member, (v for project in seen for v in client.volumes(project=project))),
    )


def volumes_at(member: str, volumes: Iterable[Volume]) -> Volumes:
    """Those that a member of a cluster can attach, or with no member all, as a server has them."""
    return {(v.pool, v.project, v.name): v for v in volumes if not member or v.member in ("", member)}


def survey_volumes(client: LxdClient, *, project: str) -> Server:
    """As much of a server as decides what becomes of custom volumes that go by themselves."""
    return Server(
        remote=client.remote,
        info=client.info(),
        projects=client.projects(),
        pools={pool.name: pool for pool in client.pools()},
        volumes={(v.pool, v.project, v.name): v for v in client.volumes(project=project)},
    )


#: Keys of instances only, which every server takes.
_ALWAYS_TAKEN = ("image.", "user.")


def tried(client: LxdClient, target: Server, source: ServerInfo, configs: Iterable[Config]) -> Server:
    """The target, asked whether it would take these configs; not asked if it can all that the source can."""
    if source.extensions <= target.info.extensions:
        return target
    settings = {setting for config in configs for setting in config.items() if not setting[0].startswith(_ALWAYS_TAKEN)}
    return replace(target, refused_config=client.refused_config(sorted(settings)))


def told_of_machines(client: LxdClient, server: Server) -> Server:
    """The server with what decides how a virtual machine moves from or to it."""
    processor = None
    with suppress(NotTrusted):  # it does not tell those whom it lets into some projects only
        processor = client.processor()
    ovn = frozenset((each, name) for each in server.networks for name in client.ovn_networks(project=each))
    return replace(server, processor=processor, ovn_networks=ovn)


def told_of_definitions(client: LxdClient, server: Server) -> Server:
    """The server with how its projects, pools and networks were made."""
    networks = {
        (Thing.NETWORK.value, project, name): found
        for project in server.networks
        for name, found in client.network_definitions(project=project).items()
    }
    pools = {(Thing.POOL.value, "", name): found for name, found in client.pool_definitions().items()}
    projects = {(Thing.PROJECT.value, "", name): found for name, found in client.project_definitions().items()}
    return replace(server, definitions={**networks, **pools, **projects})


def _instances(client: LxdClient, project: str, only: str | None) -> tuple[Instance, ...]:
    if only is None:
        return client.instances(project=project)
    try:
        return (client.instance(only, project=project),)
    except NotFound:
        return ()
