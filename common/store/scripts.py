"""Loads the Lua scripts: each is one atomic change, and each takes the namespace as its first argument."""

from importlib.resources import files
from typing import Any

from redis import Redis
from redis.commands.core import Script

_FOLDER = files("common.store") / "lua"


class Scripts:
    """``scripts("claim", ...)`` runs ``lua/claim.lua``."""

    def __init__(self, client: "Redis", namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._prelude = (_FOLDER / "prelude.lua").read_text()
        self._loaded: dict[str, Script] = {}

    def __call__(self, name: str, *arguments: str | bytes | int) -> Any:
        """Run one script. Raises redis.RedisError."""
        if name not in self._loaded:
            source = self._prelude + (_FOLDER / f"{name}.lua").read_text()
            self._loaded[name] = self._client.register_script(source)
        return self._loaded[name](keys=[], args=[self._namespace, *arguments])
