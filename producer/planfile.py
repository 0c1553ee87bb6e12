"""YAML -> Request and YAML <-> Plan. Errors name file, line and column.

A request file says what is wanted (``docs/reference/plan-file.md``); a plan file is what ``herder plan`` decided, for
review, and what ``herder run`` carries out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from yaml.nodes import MappingNode, Node, SequenceNode

from common.domain.errors import PlanFileError
from common.domain.plan import (
    AfterGrace,
    Health,
    Limits,
    Method,
    Mode,
    NameMap,
    Overrides,
    Plan,
    Policy,
    Request,
    Retire,
    Selection,
)
from common.domain.units import parse_duration
from common.store.codec import from_plain, to_plain

_Path = Sequence[int | str]


def _duration(value: object) -> object:
    return parse_duration(str(value)) if isinstance(value, str | int | float) else value


def _text(value: object) -> object:
    """LXD's config values are strings; YAML reads true and 4 as something else."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _remote(value: object) -> object:
    return value.removesuffix(":") if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Text = Annotated[str, BeforeValidator(_text)]
RemoteName = Annotated[str, BeforeValidator(_remote), Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Select(_Model):
    source: RemoteName
    project: str = "default"
    instances: list[str] = []
    match: dict[str, Text] = {}
    filter: str = ""
    all_projects: bool = False


class _Limits(_Model):
    per_source: int = Field(Limits.per_source, ge=1)
    per_target: int = Field(Limits.per_target, ge=1)
    cutovers: int = Field(Limits.cutovers, ge=1)
    downtime: Duration = Policy.downtime
    stall: Duration = Policy.stall


class _Stop(_Model):
    grace: Duration | None = None
    then: AfterGrace = AfterGrace.FORCE


class _Health(_Model):
    command: list[str] = Field(min_length=1)
    timeout: Duration = timedelta(seconds=60)


class _Overrides(_Model):
    config: dict[str, Text] = {}
    devices: dict[str, dict[str, Text]] = {}
    profiles: list[str] | None = None
    storage: str = ""


class _Map(_Model):
    profiles: dict[str, str] = {}
    networks: dict[str, str] = {}
    pools: dict[str, str] = {}
    projects: dict[str, str] = {}


class _RequestFile(_Model):
    plan: str = Field(min_length=1)
    select: _Select
    targets: list[RemoteName] = Field(min_length=1)
    method: Method | None = None
    target_project: str = ""
    limits: _Limits = _Limits()
    stop: _Stop = _Stop()
    retire: Retire = Retire.STOP
    mode: Mode = Mode.AUTO
    health: _Health | None = None
    overrides: _Overrides = _Overrides()
    map: _Map = _Map()

    def request(self) -> Request:
        """The same as a domain value."""
        return Request(
            name=self.plan,
            select=Selection(
                source=self.select.source,
                project=self.select.project,
                instances=tuple(self.select.instances),
                match=self.select.match,
                filter=self.select.filter,
                all_projects=self.select.all_projects,
            ),
            targets=tuple(self.targets),
            target_project=self.target_project,
            policy=Policy(
                method=self.method,
                downtime=self.limits.downtime,
                grace=self.stop.grace,
                after_grace=self.stop.then,
                retire=self.retire,
                mode=self.mode,
                stall=self.limits.stall,
                health=Health(command=tuple(self.health.command), timeout=self.health.timeout) if self.health else None,
            ),
            limits=Limits(
                per_source=self.limits.per_source, per_target=self.limits.per_target, cutovers=self.limits.cutovers
            ),
            overrides=Overrides(
                config=self.overrides.config,
                devices=self.overrides.devices,
                profiles=None if self.overrides.profiles is None else tuple(self.overrides.profiles),
                storage=self.overrides.storage,
                map=NameMap(**self.map.model_dump()),
            ),
        )


def read_request(path: Path) -> Request:
    """What a request file asks for. Raises PlanFileError."""
    node, content = _load(path)
    if isinstance(content, Mapping) and "moves" in content:
        raise PlanFileError(f"{path}: this is a plan, not a request", hint=f"`herder run {path}` carries it out")
    try:
        return _RequestFile.model_validate(content).request()
    except ValidationError as error:
        raise _explain(path, node, error) from error


def read_plan(path: Path) -> Plan:
    """A plan that ``herder plan`` wrote. Raises PlanFileError."""
    node, content = _load(path)
    if isinstance(content, Mapping) and "select" in content:
        raise PlanFileError(f"{path}: this is a request, not a plan", hint=f"`herder plan {path}` makes a plan of it")
    try:
        plan = from_plain(Plan, content)
    except ValidationError as error:
        raise _explain(path, node, error) from error
    unknown = list(_unknown_keys(content, to_plain(plan)))
    if unknown:
        raise _all_wrong(path, node, [(where, "there is no such key") for where in unknown])
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


def _load(path: Path) -> tuple[Node | None, Any]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise PlanFileError(f"{path}: {reason}") from error
    try:
        node, content = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise PlanFileError(f"{place}: {error.problem or error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise PlanFileError(f"{path}: {error}") from error
    try:
        twice = list(_keys_given_twice(node))
    except RecursionError as error:
        raise PlanFileError(f"{path}: an anchor contains itself") from error
    if twice:
        lines = [f"{path}:{k.start_mark.line + 1}:{k.start_mark.column + 1}: {k.value}: given twice" for k in twice]
        raise PlanFileError("\n".join(lines))
    return node, content


def _keys_given_twice(node: Node | None) -> Iterator[Node]:
    """YAML would silently take the last one."""
    if isinstance(node, MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key
            seen.add(key.value)
            yield from _keys_given_twice(value)
    elif isinstance(node, SequenceNode):
        for value in node.value:
            yield from _keys_given_twice(value)


def _explain(path: Path, root: Node | None, error: ValidationError) -> PlanFileError:
    return _all_wrong(path, root, [(problem["loc"], _in_words(problem)) for problem in error.errors()])


def _all_wrong(path: Path, root: Node | None, problems: Iterable[tuple[_Path, str]]) -> PlanFileError:
    """All that is wrong, one finding a line, each with its place."""
    lines = []
    for where, what in problems:
        line, column = _place(root, where)
        lines.append(f"{path}:{line}:{column}: {'.'.join(str(part) for part in where) or 'the file'}: {what}")
    return PlanFileError("\n".join(lines), hint="see docs/reference/plan-file.md")


def _in_words(problem: Any) -> str:
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return "there is no such key"
    if problem["type"] in ("missing", "missing_argument"):
        return "is missing"
    return str(problem["msg"]).removeprefix("Value error, ")


def _place(node: Node | None, where: _Path) -> tuple[int, int]:
    """Line and column, from 1, of the deepest node on the way; the key of a mapping rather than its value."""
    if node is None:
        return 1, 1
    mark = node.start_mark
    for part in where:
        following = None
        if isinstance(node, MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    mark, following = key.start_mark, value
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            following = node.value[part]
            mark = following.start_mark
        if following is None:
            break
        node = following
    return mark.line + 1, mark.column + 1
