"""Plans and jobs in Redis. Every change of a job is one script that checks the fence.

The fence is the version **and** a random owner: after lost writes (a Redis that restarted from an older file) a
version alone could repeat. Called by ``producer.submit``, ``producer.control`` and ``workers.runner``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

import msgpack
from redis import Redis
from redis.exceptions import ResponseError

from common.domain.errors import FenceLost, InputError
from common.domain.job import Job, State
from common.domain.plan import Plan
from common.store.codec import decode, encode
from common.store.keys import Keys
from common.store.scripts import Scripts
from common.store.servers import ServerStore

#: A holder that does not renew within this is taken for dead. Longer than the 10 s after which LXD drops a migration
#: offer that was not taken up, so that a worker that comes back from a long sleep can no longer start a transfer.
LEASE = timedelta(seconds=15)
#: How many commits each write waits for at creation, where the server can tell (Redis 7.2, Valkey).
_DURABLE_WAIT_MS = 2000
_FORGOTTEN_AFTER = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to change one job, until the lease ends. ``control`` is what a person asked for meanwhile."""

    job: Job
    owner: str
    version: int
    control: str


def _ms(value: timedelta) -> int:
    return int(value.total_seconds() * 1000)


class JobStore:
    """Plans and jobs of one namespace. ``servers`` are those that they wait for because they do not answer."""

    def __init__(self, client: "Redis", keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._run = Scripts(client, keys.namespace)
        self.servers = ServerStore(client, keys)

    def save_plan(self, plan: Plan) -> bool:
        """Store a plan before its jobs; True if it was not there yet."""
        is_new = self._client.set(self._keys.plan(plan.id), encode(plan), nx=True)
        self._client.zadd(self._keys.plans, {plan.id: plan.created_at.timestamp() * 1000}, nx=True)
        return bool(is_new)

    def create(self, job: Job) -> bool:
        """Store a new job and send its first wake-up; False, and no change, if it is there already."""
        return bool(self._run("create", job.plan, job.id, job.state, job.phase, encode(job)))

    def wait_durable(self) -> None:
        """Wait until what was written is on disk; where the server cannot tell, nothing is lost by not waiting."""
        try:
            self._client.execute_command("WAITAOF", 1, 0, _DURABLE_WAIT_MS)
        except ResponseError:
            return

    def plan(self, plan_id: str) -> Plan:
        """The stored plan. Raises InputError if there is none of this id."""
        data = self._client.get(self._keys.plan(plan_id))
        if data is None:
            raise InputError(f"there is no plan {plan_id!r}", hint="`herder status` lists the plans")
        return decode(Plan, data)  # type: ignore[arg-type] # redis types its replies for sync and async at once

    def plans(self) -> tuple[str, ...]:
        """All plan ids, newest first."""
        return tuple(name.decode() for name in self._client.zrevrange(self._keys.plans, 0, -1))  # type: ignore[union-attr]

    def jobs(self, plan_id: str) -> tuple[Job, ...]:
        """The jobs of a plan, in its order."""
        ids = [name.decode() for name in self._client.lrange(self._keys.jobs(plan_id), 0, -1)]  # type: ignore[union-attr]
        pipe = self._client.pipeline(transaction=False)
        for job_id in ids:
            pipe.hget(self._keys.job(job_id), "record")
        return tuple(sorted((decode(Job, r) for r in pipe.execute() if r), key=lambda job: job.number))

    def job(self, job_id: str) -> Job | None:
        """One job, or None."""
        record = self._client.hget(self._keys.job(job_id), "record")
        return decode(Job, record) if record else None  # type: ignore[arg-type]

    def is_paused(self, job_id: str) -> bool:
        """Whether a pause was asked for and not carried out yet."""
        return self._client.hget(self._keys.job(job_id), "control") == b"pause"

    def claim(self, job_id: str, owner: str, *, ended_too: bool = False) -> Claim | None:
        """Take a job if it is runnable and nobody holds it; None otherwise. ``owner`` is random per attempt."""
        reply = self._run("claim", job_id, owner, _ms(LEASE), int(ended_too))
        if reply[0] != b"ok":
            return None
        return Claim(job=decode(Job, reply[2]), owner=owner, version=int(reply[1]), control=reply[3].decode())

    def renew(self, claim: Claim) -> None:
        """Prolong the lease. Raises FenceLost."""
        if not self._run("renew", claim.job.id, claim.owner, claim.version, _ms(LEASE)):
            raise FenceLost(f"job {claim.job.id} belongs to another worker now")

    def commit(
        self,
        claim: Claim,
        job: Job,
        *,
        keep: bool = False,
        delay: timedelta = timedelta(0),
        servers: Sequence[str] = (),
        release: Sequence[str] = (),
        goes_first: Mapping[str, timedelta] = MappingProxyType({}),
        events: Sequence[bytes] = (),
    ) -> str:
        """Save the checkpoint and what follows from it; returns the control that a person asked for.

        ``keep`` holds on to the lease; otherwise the job is given up: a waiting one until ``delay`` has passed, one of
        its operations ends or one of ``servers``, which are set aside, is back; a running one to the queue of its
        phase. ``goes_first``: places where one transfer less shall begin for so long, because this job's instance is
        down; no longer with 0. Raises FenceLost, and nothing has changed.
        """
        envelope = {
            "state": job.state.value,
            "phase": job.phase.value,
            "record": encode(job),
            "committed": job.is_committed,
            "undoing": job.is_undoing,
            "keep": keep,
            "lease_ms": _ms(LEASE),
            "delay_ms": _ms(delay),
            "operations": [[ref.remote, ref.id, ref.project] for ref in job.operations],
            "servers": list(servers),
            "release": list(release),
            "goes_first": {place: _ms(time) for place, time in goes_first.items()},
            "plan": job.plan,
            "events": list(events),
        }
        # The Lua side reads the old msgpack format, in which bytes and text are one type.
        packed = msgpack.packb(envelope, use_bin_type=False)
        reply = self._run("commit", job.id, claim.owner, claim.version, packed)
        if not reply[0]:
            raise FenceLost(f"job {job.id} belongs to another worker now")
        return (reply[1] or b"").decode()

    def control(self, job_id: str, command: str) -> State | None:
        """Ask for ``"pause"``, ``"cancel"``, or ``"resume"`` (take a pause back); the job's state, None if unknown."""
        reply = self._run("control", job_id, command).decode()
        return State(reply) if reply else None

    def complete(self, remote: str, operation: str, result: bytes) -> bool:
        """Store how an operation ended and wake the job that waits for it."""
        return bool(self._run("complete", remote, operation, result))

    def pump(self, limit: int = 1000) -> int:
        """Send wake-ups of overdue jobs again; how many are overdue."""
        return int(self._run("pump", limit))

    def acquire_slots(self, job_id: str, limits: Sequence[tuple[str, int]], lease: timedelta) -> str:
        """Take or renew a permit of each resource, all or none: ``""``, or the resource that has none left.

        ``"s1:first"`` if a transfer could begin at s1 but for a cutover that goes first.
        """
        flat = [part for limit in limits for part in limit]
        return str(self._run("acquire", job_id, _ms(lease), *flat).decode())

    def sign_of_life(self, worker: str) -> None:
        """Note that a worker process is alive; those that have been silent for a day are forgotten."""
        now = self._now()
        self._client.zadd(self._keys.workers, {worker: now})
        self._client.zremrangebyscore(self._keys.workers, "-inf", now - _FORGOTTEN_AFTER)

    def alive_workers(self) -> tuple[str, ...]:
        """The workers that have given a sign of life within the last lease."""
        since = self._now() - LEASE.total_seconds()
        names: list[bytes] = self._client.zrangebyscore(self._keys.workers, since, "+inf")  # type: ignore[assignment]
        return tuple(name.decode() for name in names)

    def _now(self) -> int:
        """Seconds by Redis' clock: those of two hosts may differ by more than a lease."""
        seconds: int = self._client.time()[0]
        return seconds

    def unfinished(self) -> int:
        """How many jobs have not ended."""
        return int(self._client.zcard(self._keys.due))
