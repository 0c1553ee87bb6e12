"""YAML -> backup policies (``docs/reference/policy-file.md``). Errors name file, line and column."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from common.domain.backup import BackupPolicy, BackupTarget, DrillPolicy, Schedule
from common.domain.drill import TIMEOUT
from common.domain.errors import PlanFileError
from common.domain.generation import Hook
from common.domain.plan import Mode
from common.domain.retention import Retention
from producer import schedule
from producer.yamlfile import (
    Duration,
    LimitsModel,
    Model,
    RemoteName,
    SelectModel,
    all_wrong,
    explain,
    load,
)

#: It is a part of names of instances and snapshots.
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,19}$")]
_Count = Annotated[int, Field(ge=0)]


class _Schedule(Model):
    when: str = Field(min_length=1)
    zone: str = "UTC"
    jitter: Duration = timedelta(0)
    window: Duration | None = None

    @model_validator(mode="after")
    def _understood(self) -> "_Schedule":
        schedule.check(self.schedule())
        return self

    def schedule(self) -> Schedule:
        """The same as a domain value."""
        return Schedule(**self.model_dump())


class _Keep(Model):
    last: _Count = 0
    hourly: _Count = 0
    daily: _Count = 0
    weekly: _Count = 0
    monthly: _Count = 0
    yearly: _Count = 0

    def retention(self) -> Retention:
        """The same as a domain value."""
        return Retention(**self.model_dump())


class _Hook(Model):
    before: list[str] = []
    after: list[str] = []
    timeout: Duration = Hook.timeout


class _Target(Model):
    remote: RemoteName
    project: str = ""
    storage: str = ""
    keep: _Keep = _Keep()


class _Drill(Model):
    schedule: _Schedule
    target: RemoteName | None = None
    command: list[str] = []
    timeout: Duration = TIMEOUT
    max_age: Duration | None = None

    def drill(self) -> DrillPolicy:
        """The same as a domain value."""
        return DrillPolicy(
            schedule=self.schedule.schedule(),
            target=self.target or "",
            command=tuple(self.command),
            timeout=self.timeout,
            max_age=self.max_age,
        )


class _Policy(Model):
    name: _Name
    select: SelectModel
    schedule: _Schedule
    targets: list[_Target] = Field(min_length=1)
    keep: _Keep = _Keep(last=3)
    rpo: Duration | None = None
    hook: _Hook = _Hook()
    limits: LimitsModel = LimitsModel()
    mode: Mode = Mode.AUTO
    drill: _Drill | None = None

    def policy(self) -> BackupPolicy:
        """The same as a domain value."""
        return BackupPolicy(
            name=self.name,
            select=self.select.selection(),
            schedule=self.schedule.schedule(),
            targets=tuple(
                BackupTarget(**{**target.model_dump(), "keep": target.keep.retention()}) for target in self.targets
            ),
            keep=self.keep.retention(),
            rpo=self.rpo,
            hook=Hook(before=tuple(self.hook.before), after=tuple(self.hook.after), timeout=self.hook.timeout),
            limits=self.limits.limits(),
            mode=self.mode,
            rate=self.limits.rate,
            stall=self.limits.stall,
            drill=self.drill.drill() if self.drill else None,
        )


class _PolicyFile(Model):
    policies: list[_Policy] = Field(min_length=1)


def read_policies(path: Path) -> tuple[BackupPolicy, ...]:
    """The policies of a file, in its order. Raises PlanFileError."""
    node, content = load(path)
    try:
        policies = tuple(each.policy() for each in _PolicyFile.model_validate(content).policies)
    except ValidationError as error:
        raise explain(path, node, error) from error
    twice = [number for number, each in enumerate(policies) if each.name in {p.name for p in policies[:number]}]
    if twice:
        raise all_wrong(path, node, [(("policies", number, "name"), "another policy has it") for number in twice])
    elsewhere = [n for n, each in enumerate(policies) if each.drill_target not in {t.remote for t in each.targets}]
    if elsewhere:
        what = "it is none of the targets, and has no generations"
        raise all_wrong(path, node, [(("policies", number, "drill", "target"), what) for number in elsewhere])
    return policies


def read_all(paths: Iterable[Path]) -> tuple[BackupPolicy, ...]:
    """The policies of several files. Raises PlanFileError if two have one name."""
    where: dict[str, Path] = {}
    found: list[BackupPolicy] = []
    for path in paths:
        for policy in read_policies(path):
            if policy.name in where:
                raise PlanFileError(f"{path}: policy {policy.name} is in {where[policy.name]} too")
            where[policy.name] = path
            found.append(policy)
    return tuple(found)
