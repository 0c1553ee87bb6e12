"""Which runs of backup policies are due, and their plans into the store: each run exactly once, whoever dies when.

Any number of schedulers may look; one at a time acts. What makes a run happen once is that the ids of its plans follow
from the policy and the due moment: whoever submits it again changes nothing, whatever its own plan would be. What was
run is in Redis; should that be lost, the generations on the targets tell. ``producer.backup`` makes the plans,
``herder scheduler`` calls this.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from common.domain.backup import BackupPolicy
from common.domain.errors import HerderError
from common.domain.plan import Plan
from common.logs import event
from common.store.jobs import JobStore
from common.store.runs import Run, RunStore
from producer.schedule import newest_due
from producer.submit import submit

log = logging.getLogger("herder.scheduler")

#: Whoever does not look again within this is taken for dead.
LEASE = timedelta(seconds=30)
#: After which a run that could not be planned is tried again.
RETRY = timedelta(minutes=1)
#: By how much the clocks of two hosts may differ before a run of the future is told of.
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """One look at all policies at a time.

    ``plans_for`` plans a run, ``newest_on_targets`` says of which moment a policy's newest generation is. Both raise
    HerderError as long as they cannot.
    """

    name: str
    policies: Callable[[], tuple[BackupPolicy, ...]]
    plans_for: Callable[[BackupPolicy, datetime], tuple[Plan, ...]]
    newest_on_targets: Callable[[BackupPolicy], datetime | None]
    jobs: JobStore
    runs: RunStore
    now: Callable[[], datetime]
    _told: dict[str, str] = field(default_factory=dict, init=False)  # policy -> what its run waits for
    _not_before: dict[str, datetime] = field(default_factory=dict, init=False)

    def turn(self) -> bool:
        """Submit what is due; False if another scheduler acts. Raises redis.RedisError."""
        for policy in self.policies():
            if not self.runs.act(self.name, LEASE):
                return False
            if policy.name in self._not_before and self.now() < self._not_before[policy.name]:
                continue
            try:
                self._look_at(policy)
            except HerderError as error:
                self._not_before[policy.name] = self.now() + RETRY
                self._wait(policy, f"{error.message}; tried again every minute")
        return self.runs.act(self.name, LEASE)

    def _look_at(self, policy: BackupPolicy) -> None:
        last = self.runs.newest(policy.name) or self._remembered(policy)
        if last.at > self.now() + _SKEW:
            self._wait(policy, f"{last.at.isoformat()}: its newest run is of then, after this host's clock")
            return
        due = newest_due(policy.schedule, last.at, self.now())
        if due is None or self.now() < due + jitter_of(policy, due):
            return
        unfinished = tuple(plan for plan in last.plans if not self._has_ended(plan))
        window = policy.schedule.window
        if window is not None and self.now() > due + jitter_of(policy, due) + window:
            # The run after this one still has to wait for what goes on.
            self.runs.record(policy.name, Run(at=due, plans=unfinished, missed=True))
            event(log, "run.missed", policy=policy.name, at=due.isoformat(), reason="its window is over")
            return
        if unfinished:
            self._wait(policy, f"plan {unfinished[0]} of an earlier run, which goes on")
            return
        self._submit(policy, due)

    def _remembered(self, policy: BackupPolicy) -> Run:
        """Where to count from if Redis knows nothing: the newest generation, or now for a policy that never ran."""
        run = Run(at=self.newest_on_targets(policy) or self.now())
        self.runs.record(policy.name, run)
        return run

    def _submit(self, policy: BackupPolicy, due: datetime) -> None:
        plans = self.plans_for(policy, due)
        if not self.runs.act(self.name, LEASE):
            return  # planning took so long that another one acts by now
        for plan in plans:
            submit(plan, self.jobs)
            for warning in plan.warnings:
                log.warning("run.warns policy=%s plan=%s warning=%r", policy.name, plan.id, warning)
            for refusal in plan.refusals:
                reasons = "; ".join(f"{finding.message} ({finding.hint})" for finding in refusal.findings)
                log.warning("instance.refused policy=%s instance=%s reason=%r", policy.name, refusal.instance, reasons)
        self.runs.record(policy.name, Run(at=due, plans=tuple(plan.id for plan in plans)))
        self._told.pop(policy.name, None)
        event(log, "run.submitted", policy=policy.name, at=due.isoformat(), plans=",".join(plan.id for plan in plans))

    def _has_ended(self, plan: str) -> bool:
        return all(job.has_ended for job in self.jobs.jobs(plan))

    def _wait(self, policy: BackupPolicy, blocked_on: str) -> None:
        """Remember why a run does not begin, and say it once."""
        run = self.runs.newest(policy.name)
        if run is not None and run.blocked_on != blocked_on:
            self.runs.record(policy.name, replace(run, blocked_on=blocked_on))
        if self._told.get(policy.name) != blocked_on:
            self._told[policy.name] = blocked_on
            event(log, "run.waits", policy=policy.name, blocked_on=blocked_on)


def jitter_of(policy: BackupPolicy, due: datetime) -> timedelta:
    """By how much this run begins late: the same whenever it is asked, so that no attempt begins it earlier."""
    digest = hashlib.sha256(f"{policy.name} {due.timestamp()}".encode()).digest()
    return policy.schedule.jitter * (int.from_bytes(digest[:4]) / 2**32)
