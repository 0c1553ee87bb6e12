"""What one run of a backup policy makes: names, marks, and the generations that are on a target.

On each target a run makes one **generation** of each instance: an instance of its own there, cloned from the
**staging** copy that every run refreshes, so that nothing that happens to a refresh can happen to a generation. The
target itself says by config keys what is what; no database is needed to find one. ``backup`` has the policies.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from common.domain.drill import BACKUP_DRILL, Drill
from common.domain.instance import BACKUP_STATE, Instance
from common.domain.retention import Retention

#: On staging copies and generations: the policy's name.
BACKUP = "user.herder-backup"
#: On both: ``REMOTE:PROJECT/INSTANCE`` of the source.
BACKUP_OF = "user.herder-backup-of"
#: On a generation: the due moment of its run, ISO 8601, UTC.
BACKUP_AT = "user.herder-backup-at"
#: On a generation: ``{"profiles": …, "config": …, "devices": …, …}``, all that a restore onto an empty server needs.
BACKUP_DEFINITION = "user.herder-backup-definition"
#: On a custom volume beside a generation: which one of the source's it is, as ``POOL/NAME``.
BACKUP_VOLUME = "user.herder-backup-volume"

#: What ``BACKUP_STATE`` says of both. Only a complete one is ever counted, kept or restored.
STAGING, MAKING, COMPLETE = "staging", "making", "complete"

#: How the description of a profile begins that is on a target only because snapshots name it.
EMPTY_PROFILE = "herder: empty; snapshots name it in backups of"

_STAMP = "%Y%m%d-%H%M%S"
#: With a digest and a stamp, or ``-staging``, it stays within the 63 characters of an instance's name.
_LONGEST, _LONGEST_POLICY, _DIGEST = 36, 13, 4
_SENT = "-sent"
_OF_A_RUN = re.compile(r"herder-.+-\d{8}-\d{6}")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9-]+")


@dataclass(frozen=True, kw_only=True)
class Hook:
    """Lines of shell that run inside the instance right before and right after its snapshot is made, if it runs.

    Those after run whatever became of the snapshot. Both may run more than once: after a crash, and once for each
    target that is backed up to at the same time.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    timeout: timedelta = timedelta(minutes=1)

    @property
    def lines(self) -> tuple[str, ...]:
        """All of them; with none there is no hook."""
        return (*self.before, *self.after)


@dataclass(frozen=True, kw_only=True)
class BackupOrder:
    """What a plan, and each of its moves, knows of the run that it is part of."""

    policy: str
    at: datetime
    zone: str = "UTC"
    keep: Retention = field(default_factory=Retention)  # on the source
    keep_on_target: Retention = field(default_factory=Retention)
    hook: Hook = field(default_factory=Hook)
    volumes: bool = True  # whether the custom volumes that an instance attaches are backed up with it

    @property
    def snapshot(self) -> str:
        """The name of the run's snapshot, on the source, on its custom volumes and in the staging copy."""
        return f"{snapshot_prefix(self.policy)}{stamp(self.at)}"

    def generation_of(self, source: str) -> str:
        """The name of the generation that this run makes of ``REMOTE:PROJECT/INSTANCE``: 63 characters at most."""
        return f"{_short(source)}-{_digest(self.policy, source)}-{stamp(self.at)}"

    def volume_of(self, source: str, volume: str) -> str:
        """The name, beside the generation, of the custom volume ``POOL/NAME``: 63 characters at most."""
        return f"{_short(volume)}-{_digest(self.policy, source, volume)}-{stamp(self.at)}"

    def clone_of(self, source: str, volume: str, target: str) -> str:
        """The name, beside that volume on the source, of what is sent to a target in its place."""
        return f"{_short(volume)}-{_digest(self.policy, source, volume, target)}-{stamp(self.at)}{_SENT}"

    def staging_of(self, source: str) -> str:
        """The name of the copy on the target that the runs of this policy refresh: 63 characters at most."""
        policy = _NOT_IN_NAMES.sub("-", self.policy)[:_LONGEST_POLICY].strip("-")
        return f"{_short(source)}-{policy}-{_digest(self.policy, source)}-staging"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One complete backup of one instance, as its target tells of it. ``source`` is ``REMOTE:PROJECT/INSTANCE``.

    It is an instance of ``remote``, or a file in ``archive``; ``name`` is that of either. ``volumes`` are the custom
    volumes beside it: where each was on the source, and where it is kept, both as ``POOL/NAME``.
    """

    policy: str
    source: str
    at: datetime
    project: str
    name: str
    remote: str = ""
    archive: str = ""
    volumes: Mapping[str, str] = field(default_factory=dict, hash=False)
    drill: Drill | None = None  # the last one that it tells of; of an older generation, if that was pruned

    @property
    def target(self) -> str:
        """The target that has it: a remote, or the address of an archive."""
        return self.archive or self.remote

    @property
    def instance(self) -> str:
        """The name of the instance that was backed up."""
        return self.source.rpartition("/")[2]

    @property
    def place(self) -> str:
        """``REMOTE:NAME`` or ``ARCHIVE/NAME``, as commands take it."""
        return f"{self.archive}/{self.name}" if self.archive else f"{self.remote}:{self.name}"

    @classmethod
    def of(cls, instance: Instance, remote: str) -> "Generation | None":
        """The generation that an instance of a target is, if it is a complete one."""
        config = instance.config
        if config.get(BACKUP_STATE) != COMPLETE or BACKUP_AT not in config:
            return None
        return cls(
            policy=config.get(BACKUP, ""),
            source=config.get(BACKUP_OF, ""),
            at=datetime.fromisoformat(config[BACKUP_AT]),
            remote=remote,
            project=instance.project,
            name=instance.name,
            volumes=_volumes_in(config.get(BACKUP_DEFINITION, "")),
            drill=Drill.read(config.get(BACKUP_DRILL, "")),
        )


def _volumes_in(definition: str) -> dict[str, str]:
    """Those that a definition tells of; a generation without one is no less of one."""
    try:
        told = json.loads(definition).get("volumes", ())
    except ValueError:
        return {}
    return {f"{each['pool']}/{each['name']}": f"{each['kept_in']}/{each['kept_as']}" for each in told}


def stamp(at: datetime) -> str:
    """A moment as it stands in names, in UTC: ``20261123-020000``."""
    return at.astimezone(UTC).strftime(_STAMP)


def snapshot_prefix(policy: str) -> str:
    """How the names of a policy's snapshots begin; a stamp follows."""
    return f"herder-{policy}-"


def moment_of(snapshot: str, policy: str) -> datetime | None:
    """The due moment of the run that has made this snapshot, if it was a run of this policy."""
    prefix = snapshot_prefix(policy)
    if not snapshot.startswith(prefix):
        return None
    try:
        return datetime.strptime(snapshot.removeprefix(prefix), _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def is_backup_snapshot(name: str) -> bool:
    """Whether a run of some policy has made this snapshot; those of other jobs bear no moment."""
    return _OF_A_RUN.fullmatch(name) is not None


def origin(remote: str, project: str, instance: str) -> str:
    """A source as the marks tell it: ``REMOTE:PROJECT/INSTANCE``."""
    return f"{remote}:{project}/{instance}"


def _short(source: str) -> str:
    return source.rpartition("/")[2][:_LONGEST].rstrip("-")


def _digest(*parts: str) -> str:
    """What keeps instances or volumes of one name apart that several policies, servers or projects have."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:_DIGEST]
