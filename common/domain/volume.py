"""Custom volumes: one as its server tells of it, and those that travel with an instance."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from common.domain.generation import BACKUP, BACKUP_VOLUME
from common.domain.instance import MARK_PREFIX, Config

#: How the files on it are owned; without them the target's server would shift their owners once more.
_OWNERS = "volatile.idmap."
#: On a volume that was copied or moved by itself: the last job that did it. It stays, so that the job is known again.
COPIED_BY = "user.herder-copied-by"
_NOT_ITS_OWN = ("volatile.", MARK_PREFIX, COPIED_BY, BACKUP)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One custom volume. ``used_by`` are the paths of the instances and profiles that attach it.

    ``member`` is the one of its cluster that has it.
    """

    pool: str
    name: str
    project: str = "default"
    config: Config = field(default_factory=dict)
    description: str = ""
    content_type: str = "filesystem"
    used_by: tuple[str, ...] = ()
    member: str = ""
    etag: str = ""

    @property
    def marks(self) -> Config:
        """What herder wrote on it, by the key without prefix."""
        return {k.removeprefix(MARK_PREFIX): v for k, v in self.config.items() if k.startswith(MARK_PREFIX) and v}

    @property
    def is_retired(self) -> bool:
        """Whether it is what a move has left behind."""
        return self.marks.get("state") == "retired"

    @property
    def own_config(self) -> Config:
        """Its config as its owner sees it."""
        return {k: v for k, v in self.config.items() if not k.startswith(_NOT_ITS_OWN)}

    @property
    def original(self) -> "Volume | None":
        """Of one beside a generation: the volume of the source, as it was at the snapshot of that run."""
        told = self.config.get(BACKUP_VOLUME)
        if told is None:
            return None
        was = json.loads(told)
        return Volume(pool=was["pool"], name=was["name"], config=was["config"], description=was["description"])

    @property
    def owners(self) -> Config:
        """The keys that say how its files are owned on the disk."""
        return {k: v for k, v in self.config.items() if k.startswith(_OWNERS)}

    @property
    def place(self) -> str:
        """What it is called on its server."""
        return f"{self.pool}/{self.name}"

    def other_users(self, instance: str = "", project: str = "default") -> tuple[str, ...]:
        """Who attaches it, but this instance: ``web2``, ``profile ssd``, ``web1 of project shop``."""
        return tuple(sorted({_told(url, project) for url in self.used_by} - {instance}))


def _told(url: str, project: str) -> str:
    """Who is at this path, seen from a project."""
    place = urlsplit(url)
    kind, name, *_ = place.path.strip("/").split("/")[1:]
    its_project = parse_qs(place.query).get("project", ["default"])[0]
    of_another = "" if its_project == project else f" of project {its_project}"
    return f"{'' if kind == 'instances' else 'profile '}{unquote(name)}{of_another}"


@dataclass(frozen=True, kw_only=True)
class AttachedVolume:
    """A custom volume that travels, with its instance or by itself; under its own name, unless it gets a new one."""

    pool: str
    name: str
    target_pool: str
    new_name: str = ""

    @property
    def target_name(self) -> str:
        return self.new_name or self.name

    def __str__(self) -> str:
        return f"{self.pool}/{self.name}"


Volumes = Mapping[tuple[str, str, str], Volume]
