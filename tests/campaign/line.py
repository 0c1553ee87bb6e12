"""A worker's line to Redis: a real client on a real server, whose time is the trial's and which can be disturbed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import redis
from redis.commands.core import Script

import common.store.scripts

if TYPE_CHECKING:
    from tests.campaign.worker import Worker
    from tests.campaign.world import World

#: Scripts take the time from their first key, which a line gives them; herder's own give none.
_REAL = """local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end"""
_VIRTUAL = """local function now()
  return tonumber(KEYS[1])
end"""

_READS = frozenset({"GET", "HGET", "HGETALL", "HMGET", "SMEMBERS", "ZCARD", "ZRANGE", "LRANGE", "EXISTS", "TIME"})


class _Scripts(common.store.scripts.Scripts):
    """herder's scripts with virtual time; their texts are read once per process."""

    _texts: ClassVar[dict[str, str]] = {}

    def __init__(self, client: "redis.Redis", namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._loaded: dict[str, Script] = {}

    def __call__(self, name: str, *arguments: str | bytes | int) -> Any:
        """Run one script. Raises redis.RedisError."""
        if name not in self._loaded:
            self._loaded[name] = self._client.register_script(script_text(name))
        if isinstance(self._client, Line):
            self._client.script = name
        return self._loaded[name](keys=[], args=[self._namespace, *arguments])


@contextmanager
def changed(script: str, old: str, new: str) -> Iterator[None]:
    """Inside the block one of herder's scripts says something else. ``prelude`` changes all of them."""
    folder = common.store.scripts._FOLDER
    names = [path.name.partition(".")[0] for path in folder.iterdir() if path.name.endswith(".lua")]
    meant = [name for name in names if name != "prelude" and script in (name, "prelude")]
    kept = {name: script_text(name) for name in meant}
    for name, text in kept.items():
        assert old in text
        _Scripts._texts[name] = text.replace(old, new)
    try:
        yield
    finally:
        _Scripts._texts.update(kept)


def script_text(name: str) -> str:
    """The whole text of one of herder's scripts, in virtual time."""
    known = _Scripts._texts
    if name not in known:
        folder = common.store.scripts._FOLDER
        prelude = (folder / "prelude.lua").read_text()
        assert _REAL in prelude
        known[name] = prelude.replace(_REAL, _VIRTUAL) + (folder / f"{name}.lua").read_text()
    return known[name]


def load_scripts(pool: redis.ConnectionPool) -> None:
    """Make them known to Redis, so that no trial differs from another by having been the first to use one."""
    client = redis.Redis(connection_pool=pool)
    for path in common.store.scripts._FOLDER.iterdir():
        name, _, suffix = path.name.partition(".")
        if suffix == "lua" and name != "prelude":
            client.script_load(script_text(name))


@contextmanager
def scripts_in_virtual_time() -> Iterator[None]:
    """Inside the block every store that is made runs its scripts in the time of its line."""
    with (
        mock.patch("common.store.jobs.Scripts", _Scripts),
        mock.patch("common.store.servers.Scripts", _Scripts),
    ):
        yield


class Line(redis.Redis):
    """``worker`` is whose line it is, None for a person's. One that ``is_steady`` never gives the baton away."""

    def __init__(self, world: "World", worker: "Worker | None", *, is_steady: bool = False) -> None:
        super().__init__(connection_pool=world.pool)
        self.script = ""
        self._world = world
        self._worker = worker
        self._is_steady = is_steady

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, if Redis can be reached. Raises redis.RedisError."""
        is_script = args[0] == "EVALSHA"
        what = self.script if is_script else str(args[0])
        is_write = what not in _READS
        if not self._is_steady:
            self._world.point(f"redis {what}", is_write=is_script and what == "commit")
        self._world.outages.check(self._world, is_write=is_write, is_steady=self._is_steady)
        if what == "claim" and self._worker is not None:
            self._world.watch_claim(self._worker, str(args[4]))
        answer = self._send(is_script, args, options)
        if not self._is_steady and is_script and self._world.outages.loses_answer(what):
            answer = self._send(is_script, args, options)
        if is_script:
            self._world.scripted(what, self._worker, answer)
        if not self._is_steady:
            self._world.point(f"after redis {what}", is_write=False)
        return answer

    def _send(self, is_script: bool, args: Any, options: Any) -> Any:
        if is_script:
            args = (*args[:2], 1, self._world.redis_ms(), *args[3:])
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
