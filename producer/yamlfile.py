"""What the YAML files that people write have in common: read strictly, errors with file, line and column.

Called by ``planfile`` and ``policyfile``.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from yaml.nodes import MappingNode, Node, SequenceNode

from common.domain.errors import PlanFileError
from common.domain.plan import Health, Limits, Policy, Selection
from common.domain.units import parse_duration, parse_rate

_Path = Sequence[int | str]


def _duration(value: object) -> object:
    return parse_duration(str(value)) if isinstance(value, str | int | float) else value


def _rate(value: object) -> object:
    return parse_rate(str(value)) if isinstance(value, str | int) else value


def _text(value: object) -> object:
    """LXD's config values are strings; YAML reads true and 4 as something else."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _remote(value: object) -> object:
    return value.removesuffix(":") if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Rate = Annotated[int, BeforeValidator(_rate)]
Text = Annotated[str, BeforeValidator(_text)]
RemoteName = Annotated[str, BeforeValidator(_remote), Field(min_length=1)]


class Model(BaseModel):
    """A mapping in a file, without any key that is not named."""

    model_config = ConfigDict(extra="forbid")


class SelectModel(Model):
    """Which instances."""

    source: RemoteName
    project: str = "default"
    instances: list[str] = []
    match: dict[str, Text] = {}
    filter: str = ""
    all_projects: bool = False

    def selection(self) -> Selection:
        """The same as a domain value."""
        return Selection(**{**self.model_dump(), "instances": tuple(self.instances)})


class LimitsModel(Model):
    """How much at a time, and how long."""

    per_source: int = Field(Limits.per_source, ge=1)
    per_target: int = Field(Limits.per_target, ge=1)
    cutovers: int = Field(Limits.cutovers, ge=1)
    downtime: Duration = Policy.downtime
    stall: Duration = Policy.stall
    rate: Rate = Policy.rate

    def limits(self) -> Limits:
        """Those of them that count jobs."""
        return Limits(per_source=self.per_source, per_target=self.per_target, cutovers=self.cutovers)


class HealthModel(Model):
    """A command that tells whether an instance is well."""

    command: list[str] = Field(min_length=1)
    timeout: Duration = timedelta(seconds=60)

    def health(self) -> Health:
        """The same as a domain value."""
        return Health(command=tuple(self.command), timeout=self.timeout)


def load(path: Path) -> tuple[Node | None, Any]:
    """The file's nodes, with their places, and its content. Raises PlanFileError."""
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


def explain(path: Path, root: Node | None, error: ValidationError) -> PlanFileError:
    """What a model does not take, in words."""
    return all_wrong(path, root, [(problem["loc"], _in_words(problem)) for problem in error.errors()])


def all_wrong(path: Path, root: Node | None, problems: Iterable[tuple[_Path, str]]) -> PlanFileError:
    """All that is wrong, one finding a line, each with its place."""
    lines = []
    for where, what in problems:
        line, column = place_of(root, where)
        lines.append(f"{path}:{line}:{column}: {'.'.join(str(part) for part in where) or 'the file'}: {what}")
    return PlanFileError("\n".join(lines), hint="see docs/reference/plan-file.md and policy-file.md")


def _in_words(problem: Any) -> str:
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return "there is no such key"
    if problem["type"] in ("missing", "missing_argument"):
        return "is missing"
    return str(problem["msg"]).removeprefix("Value error, ")


def place_of(node: Node | None, where: _Path) -> tuple[int, int]:
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
