"""One look at a server: everything that planning and preflight ask about. Called by both sides."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from common.domain.errors import NotFound
from common.domain.fleet import Server, ServerInfo
from common.domain.instance import Config, Instance
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
    return Server(
        remote=client.remote,
        info=info,
        projects=tuple(known),
        instances=tuple(i for project in seen for i in _instances(client, project, only)),
        pools={pool.name: pool for pool in client.pools()},
        profiles={project: {p.name: p for p in client.profiles(project=project)} for project in seen},
        networks={project: client.networks(project=project) for project in seen},
        volumes=frozenset(volume for project in seen for volume in client.volumes(project=project)),
    )


#: Keys of instances only, which every server takes.
_ALWAYS_TAKEN = ("image.", "user.")


def tried(client: LxdClient, target: Server, source: ServerInfo, configs: Iterable[Config]) -> Server:
    """The target, asked whether it would take these configs; not asked if it can all that the source can."""
    if source.extensions <= target.info.extensions:
        return target
    settings = {setting for config in configs for setting in config.items() if not setting[0].startswith(_ALWAYS_TAKEN)}
    return replace(target, refused_config=client.refused_config(sorted(settings)))


def _instances(client: LxdClient, project: str, only: str | None) -> tuple[Instance, ...]:
    if only is None:
        return client.instances(project=project)
    try:
        return (client.instance(only, project=project),)
    except NotFound:
        return ()
