"""The newest run of each backup policy, and who of the schedulers acts. Used by ``producer.scheduler``."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from redis import Redis
from redis.client import Pipeline

from common.domain.alert import Alert, Change
from common.store.codec import decode, encode
from common.store.keys import Keys
from common.store.roles import leave_role, take_role


@dataclass(frozen=True, kw_only=True)
class Run:
    """A due moment of a policy that was dealt with. It has no plans if it was missed, or from before the policy."""

    at: datetime
    plans: tuple[str, ...] = ()
    missed: bool = False
    blocked_on: str = ""  # what the run after this one waits for


class RunStore:
    """The runs of one namespace."""

    def __init__(self, client: "Redis", keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def act(self, scheduler: str, lease: timedelta) -> bool:
        """Become, or stay, the one that acts."""
        return take_role(self._client, self._keys.scheduler, scheduler, lease)

    def leave(self, scheduler: str) -> None:
        """Let another one act at once."""
        leave_role(self._client, self._keys.scheduler, scheduler)

    def alerts(self) -> dict[str, Alert]:
        """What was told and is not over, by its key."""
        found: dict[bytes, bytes] = self._client.hgetall(self._keys.alerts)  # type: ignore[assignment]
        return {key.decode(): decode(Alert, text) for key, text in found.items()}

    def remember_alerts(self, told: Change) -> None:
        """So that nobody tells them again."""
        pipe = self._client.pipeline()
        for each in told.begun:
            pipe.hset(self._keys.alerts, each.key, encode(each))
        for each in told.over:
            pipe.hdel(self._keys.alerts, each.key)
        pipe.execute()

    def newest(self, policy: str) -> Run | None:
        """The newest run of a policy; None if Redis knows of none, which may be because it has lost that."""
        found: bytes | None = self._client.hget(self._keys.runs, policy)  # type: ignore[assignment]
        return decode(Run, found) if found else None

    def record(self, policy: str, run: Run) -> None:
        """Remember the newest run of a policy; an older one, of a scheduler that was away for long, is ignored."""

        def write(pipe: "Pipeline") -> None:
            known: bytes | None = pipe.hget(self._keys.runs, policy)  # type: ignore[assignment]
            pipe.multi()
            if known is None or decode(Run, known).at <= run.at:
                pipe.hset(self._keys.runs, policy, encode(run))

        self._client.transaction(write, self._keys.runs)
