"""What can become of Redis: away, read-only, full, emptied, or back with an older copy of its data."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from tests.campaign.world import World

#: How long a patient client tries to reach a Redis that is away, in seconds.
_PATIENCE = 8.0
#: Scripts that a client may send twice, because the first answer was lost on the way.
_MAY_LOSE = frozenset({"commit", "claim", "renew", "complete", "pump", "acquire", "answer", "fail"})


class Outages:
    """The state of one trial's Redis."""

    def __init__(self) -> None:
        self.away_until = self.read_only_until = self.full_until = 0.0
        self.answers_to_lose: list[str] = []
        self.happened: Counter[str] = Counter()
        #: Whether records may have been lost, so that a lease may be, too.
        self.has_lost = False

    def check(self, world: "World", *, is_write: bool, is_steady: bool) -> None:
        """Raises what a client raises that cannot do it now."""
        if world.now() < self.away_until:
            if not is_steady:
                world.pause_until(lambda: world.now() >= self.away_until, _PATIENCE)
            if world.now() < self.away_until:
                raise redis.ConnectionError("Connection refused")
        if is_write and world.now() < self.read_only_until:
            raise redis.exceptions.ReadOnlyError("You can't write against a read only replica.")
        if is_write and world.now() < self.full_until:
            raise redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")

    def loses_answer(self, script: str) -> bool:
        """Whether the connection breaks after this script was run, so that the client sends it again."""
        if script not in _MAY_LOSE or script not in self.answers_to_lose:
            return False
        self.answers_to_lose.remove(script)
        self.happened["redis-answer-lost"] += 1
        return True


class Copy:
    """All keys as they are now; ``restore`` puts them back and removes all others."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client: Any = client
        names = self._client.keys("*")
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.dump(name)
            pipe.pttl(name)
        found = pipe.execute()
        self._kept = [
            (name, max(0, ttl), data) for name, data, ttl in zip(names, found[::2], found[1::2], strict=True) if data
        ]

    def restore(self) -> None:
        pipe = self._client.pipeline(transaction=False)
        pipe.flushdb()
        for name, ttl, data in self._kept:
            pipe.restore(name, ttl, data)
        pipe.execute()
