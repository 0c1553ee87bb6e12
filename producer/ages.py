"""The RPO clock: how old the last good backup of each instance is, on each target of its policy.

The targets are asked, not Redis: what cannot be restored does not count. Used by ``herder backup status`` and
``producer.scheduler``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from common.config import Settings
from common.domain.backup import BackupPolicy
from common.domain.drill import Drill, newest
from common.domain.fleet import Server
from common.domain.generation import Generation, origin
from common.domain.instance import Instance
from common.lxd.remotes import Remotes
from producer.backup import generations, request_for
from producer.inventory import take_inventory
from producer.planner import select


@dataclass(frozen=True, kw_only=True)
class Age:
    """How one instance stands on one target: ``age`` of its last good backup, of itself if it never had one.

    ``rpo`` is what the policy allows; None allows everything. ``drill`` is the last one of any of its backups there,
    ``since_drill`` its age, or that of the oldest backup if there was none; ``drill_rpo`` is what the policy allows.
    """

    policy: str
    source: str  # REMOTE:PROJECT/INSTANCE
    target: str
    last_good: datetime | None
    generation: str
    age: timedelta
    rpo: timedelta | None
    drill: Drill | None = None
    since_drill: timedelta = timedelta(0)
    drill_rpo: timedelta | None = None

    @property
    def is_breached(self) -> bool:
        """Whether the backup is older than the policy allows."""
        return self.rpo is not None and self.age > self.rpo

    @property
    def is_unproven(self) -> bool:
        """Whether the last drill failed, or was longer ago than the policy allows."""
        has_failed = self.drill is not None and not self.drill.succeeded
        return has_failed or (self.drill_rpo is not None and self.since_drill > self.drill_rpo)


def selected(policy: BackupPolicy, now: datetime, remotes: Remotes, settings: Settings) -> tuple[Instance, ...]:
    """The instances of a policy, as its source has them now. Raises InputError and ServerUnreachable."""
    request = request_for(policy, policy.targets[0], now)
    fleet = take_inventory(request, remotes, settings)
    source: Server = fleet.servers[policy.select.source]
    return select(source.instances, policy.select, fleet.matching)


def ages(policy: BackupPolicy, instances: Iterable[Instance], found: Sequence[Generation], now: datetime) -> list[Age]:
    """One for each instance and target, in their order. ``found`` are generations of any policy."""
    of_policy = [each for each in found if each.policy == policy.name]
    return [_age(policy, instance, target.place, of_policy, now) for instance in instances for target in policy.targets]


def _age(policy: BackupPolicy, instance: Instance, target: str, found: Iterable[Generation], now: datetime) -> Age:
    source = origin(policy.select.source, instance.project, instance.name)
    here = sorted((g for g in found if (g.target, g.source) == (target, source)), key=lambda g: g.at, reverse=True)
    drill = newest(each.drill for each in here)
    drilled = policy.drill if policy.drill_target == target else None
    return Age(
        policy=policy.name,
        source=source,
        target=target,
        last_good=here[0].at if here else None,
        generation=here[0].name if here else "",
        age=now - (here[0].at if here else instance.created_at),
        rpo=policy.rpo,
        drill=drill,
        since_drill=now - drill.at if drill else now - here[-1].at if here else timedelta(0),
        drill_rpo=drilled.max_age if drilled else None,
    )


def of_policies(policies: Iterable[BackupPolicy], now: datetime, remotes: Remotes, settings: Settings) -> list[Age]:
    """The ages of all instances of these policies. Raises InputError and ServerUnreachable."""
    policies = tuple(policies)
    found = generations([target.place for each in policies for target in each.targets], remotes, settings)
    return [age for each in policies for age in ages(each, selected(each, now, remotes, settings), found, now)]


def newest_run(found: Iterable[Age]) -> datetime | None:
    """The newest moment of which every instance that has backups has one on each target; None if there is none."""
    return min((each.last_good for each in found if each.last_good), default=None)
