"""What a backup policy asks for: which instances are backed up when, whither, and for how long.

A **run** is one due moment of a policy; ``generation`` knows what a run makes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from common.domain.drill import TIMEOUT
from common.domain.generation import Hook
from common.domain.plan import Compression, Limits, Mode, Selection
from common.domain.retention import Retention


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a policy is due: a cron line or calendar words, in a time zone, and how its runs are spread.

    ``jitter`` is the most by which a run begins late, the same for every attempt at that run. A run that could not
    begin within ``window`` of its due moment is not made any more, and that is reported; None: it is caught up.
    """

    when: str
    zone: str = "UTC"
    jitter: timedelta = timedelta(0)
    window: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class BackupTarget:
    """Where generations go, and how long they stay: to ``remote``, or as compressed files into ``archive``.

    ``written`` is ``FILE:LINE:COLUMN``, where it is asked for.
    """

    remote: str = ""
    archive: str = ""
    compression: Compression = Compression.NONE
    project: str = ""  # on the target; "": as on the source
    storage: str = ""  # the target's pool; "": that of the same name
    keep: Retention = field(default_factory=Retention)
    written: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        """The remote, or the address of the archive."""
        return self.archive or self.remote


@dataclass(frozen=True, kw_only=True)
class DrillPolicy:
    """When and how the newest generations of a policy prove themselves.

    ``target`` is the remote that has them, ``""`` the first of the policy's. ``max_age`` is the age that the last drill
    of an instance may reach.
    """

    schedule: Schedule
    target: str = ""
    command: tuple[str, ...] = ()
    timeout: timedelta = TIMEOUT
    max_age: timedelta | None = None


#: How the name of a policy ends that stands for the runs of another one's drill; no policy's own name has a slash.
_OF_DRILL = "/drill"


@dataclass(frozen=True, kw_only=True)
class BackupPolicy:
    """One entry of a policy file. ``rpo`` is the age that the last good backup of an instance may reach.

    ``volumes`` says whether the custom volumes that instances attach are backed up with them.
    """

    name: str
    select: Selection
    schedule: Schedule
    targets: tuple[BackupTarget, ...]
    keep: Retention = field(default_factory=Retention)  # of the snapshots on the source
    rpo: timedelta | None = None
    hook: Hook = field(default_factory=Hook)
    volumes: bool = True
    limits: Limits = field(default_factory=Limits)
    mode: Mode = Mode.AUTO
    rate: int = 0
    stall: timedelta = timedelta(minutes=2)
    drill: DrillPolicy | None = None

    @property
    def is_drill(self) -> bool:
        """Whether its runs are drills, and not backups."""
        return self.name.endswith(_OF_DRILL)

    @property
    def base_name(self) -> str:
        """The name that its generations bear; of the runs of a drill that of its policy."""
        return self.name.removesuffix(_OF_DRILL)

    @property
    def drill_target(self) -> str:
        """The remote on which its generations are drilled; ``""`` if all of its targets are archives."""
        return (self.drill.target if self.drill else "") or next((t.remote for t in self.targets if t.remote), "")

    def as_drill(self) -> "BackupPolicy":
        """What stands for its drill beside it: another name and schedule, so that whoever runs policies runs it too."""
        assert self.drill  # noqa: S101 - asked only of those that have one
        return replace(self, name=f"{self.base_name}{_OF_DRILL}", schedule=self.drill.schedule)


def with_drills(policies: Iterable[BackupPolicy]) -> tuple[BackupPolicy, ...]:
    """All that has runs of its own: each policy, followed by its drill."""
    return tuple(run for each in policies for run in ((each, each.as_drill()) if each.drill else (each,)))
