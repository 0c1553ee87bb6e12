"""`python -m tests.docs.generate`: write what the reference pages say about commands, settings, errors and Redis keys.

The text between `<!-- begin: NAME -->` and `<!-- end: NAME -->` is made from the code; all else on a page is written by
hand. A test fails while a page is not up to date.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo
from typer.models import ArgumentInfo, OptionInfo

import common
import producer
import workers
from common.config import Settings
from common.domain.errors import FenceLost, HerderError, InputError, PermanentError, TemporaryError
from common.store import keys
from producer.cli import exits
from producer.cli.main import app
from tests.docs.pages import DOCS, with_region

Row = tuple[str, str, str]
#: Defaults that depend on the machine.
_DEFAULTS_IN_WORDS = {"state_dir": "`$XDG_STATE_HOME/herder`, or `~/.local/state/herder`"}
#: Errors that have no class of their own.
_OTHER_ERRORS = (
    ("`redis`", "you", "Redis stopped answering while a command used it.", "see that Redis is up; `herder resume`"),
    (
        "`bug`",
        "herder, up to 3 times; then you",
        "An error that nobody foresaw; its traceback is the message.",
        "report it",
    ),
)


def commands() -> str:
    """Every command with its arguments and options."""
    return "\n\n".join(_commands_of(app, "herder"))


def _commands_of(group: typer.Typer, prefix: str) -> Iterator[str]:
    for command in group.registered_commands:
        assert command.callback
        name = command.name or command.callback.__name__
        yield _command(f"{prefix} {name}", command.callback)
    for below in group.registered_groups:
        assert below.typer_instance
        assert isinstance(below.name, str)
        yield from _commands_of(below.typer_instance, f"{prefix} {below.name}")


def _command(name: str, callback: Callable[..., Any]) -> str:
    hints = get_type_hints(callback, include_extras=True)
    parameters = inspect.signature(callback).parameters.values()
    annotated = [(p, *get_args(hints[p.name])[:2]) for p in parameters if get_origin(hints[p.name]) is Annotated]
    declared = [_argument(p, kind, info) for p, kind, info in annotated if isinstance(info, ArgumentInfo)]
    declared += [_option(p, kind, info) for p, kind, info in annotated if isinstance(info, OptionInfo)]
    text = f"## `{name}`\n\n{inspect.getdoc(callback)}"
    return f"{text}\n\n{table('argument or option | default | meaning', declared)}" if declared else text


def table(heading: str, rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; a bar inside a cell would end it."""
    lines = [f"| {heading} |", f"|{'---|' * (heading.count('|') + 1)}"]
    lines += [" | ".join(["", *(cell.replace("|", r"\|") for cell in row), ""]).strip() for row in rows]
    return "\n".join(lines)


def _argument(parameter: inspect.Parameter, kind: Any, info: ArgumentInfo) -> Row:
    return f"`{info.metavar or parameter.name.upper()}`", _default(parameter.default), _sentence(info.help, kind)


def _option(parameter: inspect.Parameter, kind: Any, info: OptionInfo) -> Row:
    plain = _without_none(kind)
    value = "" if plain is bool else f" {info.metavar or _placeholder(plain)}"
    # typer takes the first name for a default until it has seen that the option is an annotation.
    names = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
    written = ", ".join(f"`{name}{value}`" for both in names for name in both.split("/"))
    return written, _default(parameter.default), _sentence(info.help, kind)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) is UnionType:
        return next(each for each in get_args(kind) if each is not NoneType)
    return kind


def _placeholder(kind: Any) -> str:
    if kind is int:
        return "N"
    return "FILE" if kind is Path else "TEXT"


def _default(value: object) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if isinstance(value, Enum):
        value = value.value
    return "" if value is None or value is False or value == "" else f"`{'yes' if value is True else value}`"


def _sentence(text: str | None, kind: Any) -> str:
    plain = _without_none(kind)
    extra = ""
    if inspect.isclass(plain) and issubclass(plain, Enum):
        extra = f" One of {', '.join(f'`{each.value}`' for each in plain)}."
    if get_origin(plain) is list and "several" not in (text or ""):
        extra = " May be given several times."
    return f"{text or ''}{extra}".strip()


def exit_status() -> str:
    """What the exit status of every command means."""
    found = re.findall(r"(\d+): ([^.]+)\.", " ".join(exits.EXIT_STATUS.split()))
    return table("status | meaning", [(f"`{code}`", meaning) for code, meaning in found])


def settings() -> str:
    """Every setting, its variable, its default and its meaning."""
    rows = [
        (f"`{name}`", f"`HERDER_{name.upper()}`", _default_of_setting(name, field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return table("setting | variable | default | meaning", rows)


def _default_of_setting(name: str, field: FieldInfo) -> str:
    if field.default_factory:
        return _DEFAULTS_IN_WORDS[name]
    return f"`{field.default}`" if field.default else "empty"


def errors() -> str:
    """Every error code, who acts next, and the exit status of a command that ends with it."""
    rows = [(f"`{kind.code}`", _who_acts(kind), _meaning(kind), kind.default_hint) for kind in error_classes()]
    return table("code | who acts next | meaning | what helps", [*rows, *_OTHER_ERRORS])


def _meaning(kind: type[HerderError]) -> str:
    """The first sentence of its docstring, without what it says about attributes."""
    first = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    return re.sub(r"; ``.*", ".", first)


def error_classes() -> list[type[HerderError]]:
    """Every kind of error that is raised on purpose, in the order of the tree that `common.domain.errors` draws."""
    for package in (common, producer, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return [kind for kind in _below(HerderError) if "<locals>" not in kind.__qualname__]


def _below(kind: type[HerderError]) -> Iterator[type[HerderError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def _who_acts(kind: type[HerderError]) -> str:
    if issubclass(kind, TemporaryError):
        return "herder, again, by itself"
    if issubclass(kind, FenceLost):
        return "nobody: another worker has the job"
    if issubclass(kind, InputError):
        return "you; nothing has moved"
    return "you; the job is parked" if issubclass(kind, PermanentError) else "you"


def redis_keys() -> str:
    """Every key, its type and what it holds."""
    rows: list[list[str]] = []
    for line in (keys.__doc__ or "").splitlines():
        begun = re.match(r"``(NS:\S+)``\s+(\w+)\s+(.*)", line)
        if begun:
            rows.append(list(begun.groups()))
        elif rows and line.startswith("    "):
            rows[-1][2] += f" {line.strip()}"
    return table("key | type | holds", [(f"`{key}`", kind, holds.replace("``", "`")) for key, kind, holds in rows])


REGIONS: dict[Path, dict[str, Callable[[], str]]] = {
    DOCS / "reference" / "cli.md": {"exit status": exit_status, "commands": commands},
    DOCS / "reference" / "settings.md": {"settings": settings},
    DOCS / "reference" / "errors.md": {"errors": errors},
    DOCS / "reference" / "redis-keys.md": {"keys": redis_keys},
}


def filled(page: Path) -> str:
    """The page as it should be."""
    text = page.read_text()
    for name, make in REGIONS[page].items():
        text = with_region(text, name, make())
    return text


def main() -> None:
    """Bring all pages up to date."""
    for page in REGIONS:
        page.write_text(filled(page))


if __name__ == "__main__":
    main()
