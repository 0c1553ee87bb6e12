"""Command lines in the documentation, and whether `herder` would understand them.

They are parsed by herder's own command group with every command's body taken out, so nothing is run.
"""

import shlex
from collections.abc import Callable, Iterator
from functools import cache, wraps
from typing import Any

import typer
from typer.testing import CliRunner

from producer.cli.main import app
from tests.docs.pages import Block

_BETWEEN_COMMANDS = frozenset({"|", "||", "&", "&&", ";", "(", ")", ">", ">>", "<"})
_RUN_SERVICE = ["docker", "compose", "run"]


def command_lines(block: Block) -> Iterator[str]:
    """Every line of a `sh` block, and of a `console` block what follows a prompt; continued lines joined."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console" and line.startswith("$ "):
            yield line.removeprefix("$ ")
        elif block.language == "sh" and line.strip():
            yield line


def simple_commands(line: str) -> list[list[str]]:
    """The commands of a line of shell, as words, without redirections and leading assignments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word in _BETWEEN_COMMANDS:
            commands.append([])
        elif commands[-1] or "=" not in word:
            commands[-1].append(word)
    return [words for words in commands if words]


def herder_arguments(words: list[str]) -> list[str] | None:
    """What herder would get from this command; None for another program."""
    if words[:3] == _RUN_SERVICE and "herder" in words:
        return words[words.index("herder") + 1 :]
    return words[1:] if words[0].rpartition("/")[2] == "herder" else None


def complaint(arguments: list[str]) -> str:
    """What herder says about these arguments before it would run; `""` if it understands them."""
    outcome = CliRunner().invoke(_hollow_app(), arguments)
    return "" if outcome.exit_code == 0 else outcome.output.strip() or f"exit status {outcome.exit_code}"


@cache
def _hollow_app() -> typer.Typer:
    return _hollowed(app)


def _hollowed(group: typer.Typer) -> typer.Typer:
    """The same commands and options with nothing behind them."""
    made = typer.Typer(rich_markup_mode=None)
    if group.registered_callback and group.registered_callback.callback:
        made.callback()(_nothing_like(group.registered_callback.callback))
    for command in group.registered_commands:
        assert command.callback
        made.command(name=command.name)(_nothing_like(command.callback))
    for below in group.registered_groups:
        assert below.typer_instance
        made.add_typer(_hollowed(below.typer_instance), name=below.name)
    return made


def _nothing_like(function: Callable[..., Any]) -> Callable[..., None]:
    @wraps(function)
    def nothing(*_: Any, **__: Any) -> None:
        return

    return nothing
