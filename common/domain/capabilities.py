"""What herder does, and the API extensions that a server must have for it.

Servers are asked what they can, never judged by their version. ``herder doctor`` tells what a server cannot do, and
``docs/reference/servers.md`` is made from the answers of real ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from common.domain.eligibility import REQUIRED_EXTENSIONS, VOLUME_EXTENSIONS
from common.domain.fleet import ServerInfo
from common.domain.volume_ways import VOLUME_BACKUP_EXTENSIONS


@dataclass(frozen=True, kw_only=True)
class Capability:
    """Something to do with a server, and all ``extensions`` that it takes; without a required one herder is no use."""

    name: str
    extensions: frozenset[str]
    is_required: bool = False

    def lacks(self, info: ServerInfo) -> tuple[str, ...]:
        """The extensions that this server does not have, sorted."""
        return tuple(sorted(self.extensions - info.extensions))


CAPABILITIES = (
    Capability(name="move and copy containers, warm and cold", extensions=REQUIRED_EXTENSIONS, is_required=True),
    Capability(name="move custom volumes, with an instance and by themselves", extensions=VOLUME_EXTENSIONS),
    Capability(name="carry custom volumes as backups", extensions=VOLUME_BACKUP_EXTENSIONS),
    Capability(name="choose instances by a filter", extensions=frozenset({"api_filtering"})),
    Capability(name="choose instances of all projects", extensions=frozenset({"instance_all_projects"})),
    Capability(name="trust by a token that is used once", extensions=frozenset({"certificate_token"})),
    Capability(
        name="move into a cluster, within it and out of it",
        extensions=frozenset({"clustering", "container_incremental_copy"}),
    ),
    Capability(name="empty and restore a member of a cluster", extensions=frozenset({"clustering_evacuation"})),
    Capability(name="choose members by group", extensions=frozenset({"clustering_groups"})),
)


def missing(info: ServerInfo) -> Iterator[tuple[Capability, tuple[str, ...]]]:
    """Each capability that a server does not have, with the extensions that it lacks."""
    for capability in CAPABILITIES:
        lacking = capability.lacks(info)
        if lacking:
            yield capability, lacking
