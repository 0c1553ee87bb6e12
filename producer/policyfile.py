"""YAML -> backup policies (``docs/reference/policy-file.md``). Errors name file, line and column."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from yaml.nodes import Node

from common.archive.place import address
from common.domain.backup import BackupPolicy, BackupTarget, DrillPolicy, Schedule
from common.domain.drill import TIMEOUT
from common.domain.errors import InputError, PlanFileError
from common.domain.generation import Hook
from common.domain.plan import Compression, Mode
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
    place_of,
)

#: It is a part of names of instances and snapshots.
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,19}$")]
#: A place in the file, and what is wrong there.
_Wrong = tuple[tuple[str | int, ...], str]
_Count = Annotated[int, Field(ge=0)]


def _archive(value: object) -> object:
    if not isinstance(value, str) or not value:
        raise ValueError("write a directory, or s3://BUCKET/PREFIX")
    if not value.startswith(("/", "~")) and "://" not in value:
        raise ValueError(f"{value!r} is no path from the root, which all hosts with workers could see")
    try:
        return address(value)
    except InputError as error:
        raise ValueError(f"{error.message}: {error.hint}") from error


_Archive = Annotated[str, BeforeValidator(_archive)]


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
    remote: RemoteName = ""
    archive: _Archive = ""
    project: str = ""
    storage: str = ""
    compression: Compression = Compression.NONE
    keep: _Keep = _Keep()

    @model_validator(mode="after")
    def _is_one_place(self) -> "_Target":
        if bool(self.remote) == bool(self.archive):
            raise ValueError("a target is either a remote or an archive")
        of_the_other = ("project", "storage") if self.archive else ("compression",)
        strange = [key for key in of_the_other if key in self.model_fields_set]
        if strange:
            raise ValueError(f"{strange[0]} is no key of {'an archive' if self.archive else 'a remote'}")
        return self


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
    volumes: bool = True
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
            volumes=self.volumes,
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
        read = tuple(each.policy() for each in _PolicyFile.model_validate(content).policies)
    except ValidationError as error:
        raise explain(path, node, error) from error
    policies = tuple(_with_places(each, number, path, node) for number, each in enumerate(read))
    twice = [number for number, each in enumerate(policies) if each.name in {p.name for p in policies[:number]}]
    wrong: list[_Wrong] = [(("policies", number, "name"), "another policy has it") for number in twice]
    wrong += [finding for number, each in enumerate(policies) for finding in _wrong_targets(number, each)]
    wrong += [finding for number, each in enumerate(policies) for finding in _wrong_drill(number, each)]
    if wrong:
        raise all_wrong(path, node, wrong)
    return policies


def _with_places(policy: BackupPolicy, number: int, path: Path, node: Node | None) -> BackupPolicy:
    """The policy with the place of each target, which errors name that show only when it is used."""
    keys = ("archive" if each.archive else "remote" for each in policy.targets)
    places = [place_of(node, ("policies", number, "targets", index, key)) for index, key in enumerate(keys)]
    targets = tuple(
        replace(each, written=f"{path}:{line}:{column}")
        for each, (line, column) in zip(policy.targets, places, strict=True)
    )
    return replace(policy, targets=targets)


def _wrong_targets(number: int, policy: BackupPolicy) -> list[_Wrong]:
    """What a policy asks for that would be left undone, and nobody would notice."""
    places = [each.place for each in policy.targets]
    twice: list[_Wrong] = [
        (("policies", number, "targets", index), f"{place} is a target of this policy already")
        for index, place in enumerate(places)
        if place in places[:index]
    ]
    if not any(each.archive for each in policy.targets):
        return twice
    wrong: list[_Wrong] = []
    if policy.hook.lines and any(each.remote for each in policy.targets):
        what = "a hook is for remotes or for archives: give the archive a policy of its own, with the same hook"
        wrong.append((("policies", number, "hook"), what))
    if policy.rate:
        what = "a rate is for remotes only: give the archive a policy of its own, without it"
        wrong.append((("policies", number, "limits", "rate"), what))
    return [*twice, *wrong]


def _wrong_drill(number: int, policy: BackupPolicy) -> list[_Wrong]:
    """A drill that would never find a generation."""
    if policy.drill is None or policy.drill_target in {target.remote for target in policy.targets if target.remote}:
        return []
    what = f"{policy.drill_target} is no remote of the targets" if policy.drill_target else "no target is a remote"
    return [(("policies", number, "drill", "target"), f"{what}, and nothing else can start a generation")]


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
