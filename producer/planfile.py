"""YAML -> Request and YAML <-> Plan. Errors name file, line and column.

A request file says what is wanted (``docs/reference/plan-file.md``); a plan file is what ``herder plan`` decided, for
review, and what ``herder run`` carries out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from common.domain.errors import PlanFileError
from common.domain.plan import (
    AfterGrace,
    Method,
    Mode,
    NameMap,
    Overrides,
    Own,
    Plan,
    Policy,
    Request,
    Retire,
    Thing,
)
from common.store.codec import from_plain, to_plain
from producer.yamlfile import (
    Duration,
    HealthModel,
    LimitsModel,
    Model,
    RemoteName,
    SelectModel,
    Text,
    all_wrong,
    explain,
    load,
)


class _Stop(Model):
    grace: Duration | None = None
    then: AfterGrace = AfterGrace.FORCE


class _Overrides(Model):
    config: dict[str, Text] = {}
    devices: dict[str, dict[str, Text]] = {}
    profiles: list[str] | None = None
    storage: str = ""
    instance_only: bool = False
    allow_inconsistent: bool = False
    ephemeral: bool = False

    def overrides(self, names: NameMap) -> Overrides:
        """The same as a domain value."""
        profiles = None if self.profiles is None else tuple(self.profiles)
        return Overrides(**{**self.model_dump(), "profiles": profiles}, map=names)


class _Each(Model):
    name: str = ""
    overrides: _Overrides = _Overrides()


class _Map(Model):
    profiles: dict[str, str] = {}
    networks: dict[str, str] = {}
    pools: dict[str, str] = {}
    projects: dict[str, str] = {}


class _RequestFile(Model):
    plan: str = Field(min_length=1)
    select: SelectModel
    targets: list[RemoteName] = Field(min_length=1)
    members: list[str] = []
    method: Literal["warm", "cold", "stateful", "live", "copy", "refresh"] | None = None
    target_project: str = ""
    limits: LimitsModel = LimitsModel()
    stop: _Stop = _Stop()
    retire: Retire = Retire.STOP
    mode: Mode = Mode.AUTO
    health: HealthModel | None = None
    overrides: _Overrides = _Overrides()
    map: _Map = _Map()
    create: list[Thing] = []
    each: dict[str, _Each] = {}

    def request(self) -> Request:
        """The same as a domain value; members of the source itself mean a move within its cluster."""
        is_within = bool(self.members) and self.targets == [self.select.source]
        return Request(
            name=self.plan,
            select=self.select.selection(),
            targets=() if is_within else tuple(self.targets),
            members=tuple(dict.fromkeys(self.members)),
            target_project=self.target_project,
            policy=Policy(
                method=Method(self.method) if self.method else None,
                downtime=self.limits.downtime,
                grace=self.stop.grace,
                after_grace=self.stop.then,
                retire=self.retire,
                mode=self.mode,
                stall=self.limits.stall,
                rate=self.limits.rate,
                health=self.health.health() if self.health else None,
            ),
            limits=self.limits.limits(),
            overrides=replace(
                self.overrides.overrides(NameMap(**self.map.model_dump())), create=tuple(dict.fromkeys(self.create))
            ),
            each={
                instance: Own(name=own.name, overrides=own.overrides.overrides(NameMap()))
                for instance, own in self.each.items()
            },
        )


def read_request(path: Path) -> Request:
    """What a request file asks for. Raises PlanFileError."""
    node, content = load(path)
    if isinstance(content, Mapping) and "moves" in content:
        raise PlanFileError(f"{path}: this is a plan, not a request", hint=f"`herder run {path}` carries it out")
    try:
        return _RequestFile.model_validate(content).request()
    except ValidationError as error:
        raise explain(path, node, error) from error


def read_plan(path: Path) -> Plan:
    """A plan that ``herder plan`` wrote. Raises PlanFileError."""
    node, content = load(path)
    if isinstance(content, Mapping) and "select" in content:
        raise PlanFileError(f"{path}: this is a request, not a plan", hint=f"`herder plan {path}` makes a plan of it")
    try:
        plan = from_plain(Plan, content)
    except ValidationError as error:
        raise explain(path, node, error) from error
    unknown = list(_unknown_keys(content, to_plain(plan)))
    if unknown:
        raise all_wrong(path, node, [(where, "there is no such key") for where in unknown])
    return plan


def _unknown_keys(content: Any, known: Any, where: tuple[int | str, ...] = ()) -> Iterator[tuple[int | str, ...]]:
    """Where a plan file says something that the plan read from it does not."""
    if isinstance(content, Mapping) and isinstance(known, Mapping):
        for key, value in content.items():
            if key in known:
                yield from _unknown_keys(value, known[key], (*where, key))
            else:
                yield (*where, key)
    elif isinstance(content, list) and isinstance(known, list):
        for number, (value, other) in enumerate(zip(content, known, strict=False)):
            yield from _unknown_keys(value, other, (*where, number))


def write_plan(plan: Plan, path: Path) -> None:
    """The plan for review. Raises PlanFileError if the file cannot be written."""
    header = f"# {len(plan.moves)} moves, {len(plan.refusals)} refused. Carry it out with: herder run {path}\n"
    try:
        path.write_text(header + yaml.safe_dump(to_plain(plan), sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise PlanFileError(f"{path}: {error.strerror}") from error
