"""Exit codes, and how errors leave the program: one clear message, for people on standard error."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

import redis
import typer
from rich.console import Console

from common.domain.errors import HerderError, InputError, PermanentError, PreflightRefused

OK = 0
BUG = 1
INPUT = 2
NOT_ALL = 3
UNREACHABLE = 4
FOUND = 5
INTERRUPTED = 130

#: Shown at the end of every command's help.
EXIT_STATUS = """
EXIT STATUS

0: done. 1: a bug in herder. 2: the input cannot be carried out, nothing has moved. 3: something was refused, failed
or is parked. 4: a server or Redis does not answer. 5: the janitor found something that is not mended, or a
backup is older than its policy allows. 130:
interrupted; unfinished work goes on with `herder resume`.
"""

P = ParamSpec("P")
R = TypeVar("R")

errors = Console(stderr=True, highlight=False, soft_wrap=True)


def fail(error: HerderError, *, as_json: bool = False) -> NoReturn:
    """Say what is wrong and what to do, and leave with the code of the error's kind."""
    if as_json:
        described = {"code": error.code, "message": error.message, "hint": error.hint}
        sys.stdout.write(json.dumps({"error": described}, indent=2) + "\n")
    errors.print(f"[bold red]error:[/] {_plain(error.message)}")
    if error.hint:
        errors.print(f"[dim]hint:[/]  {_plain(error.hint)}")
    raise typer.Exit(_code(error))


def _plain(text: str) -> str:
    """Text of servers and files is not markup."""
    return text.replace("[", r"\[")


def _code(error: HerderError) -> int:
    if isinstance(error, PreflightRefused):
        return NOT_ALL
    return INPUT if isinstance(error, InputError | PermanentError) else UNREACHABLE


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors that are meant for people into messages; anything else is a bug and keeps its traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        as_json = bool(kwargs.get("as_json"))
        try:
            return command(*args, **kwargs)
        except HerderError as error:
            fail(error, as_json=as_json)
        except redis.RedisError as error:
            fail(_redis_error(error), as_json=as_json)
        except KeyboardInterrupt:
            errors.print("interrupted; unfinished work goes on with `herder resume`")
            raise typer.Exit(INTERRUPTED) from None

    return wrapped


def _redis_error(error: redis.RedisError) -> HerderError:
    class RedisLost(HerderError):
        code = "redis"

    return RedisLost(f"Redis: {error}", hint="work that was under way goes on with `herder resume` when it is back")


def print_json(value: Any) -> None:
    """The machine's answer, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
