"""A simulated worker process: herder's runner with leases, clients and a clock of its own."""

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import redis

from common.domain.errors import FenceLost
from common.lxd.client import LxdClient
from common.lxd.migration import Offer
from common.store.jobs import LEASE, JobStore
from common.store.operations import OperationStore
from tests.campaign.baton import Task
from tests.campaign.door import doors
from tests.campaign.line import Line
from tests.simulator import Wire
from tests.simulator.relay import relay
from workers.listener import Listener
from workers.prober import Prober
from workers.runner import Runner

if TYPE_CHECKING:
    from tests.campaign.world import World

THREADS = 2


class Worker:
    """Answers wake-ups in ``THREADS`` tasks. ``skew`` is how much its clock is ahead."""

    def __init__(self, world: "World", name: str, skew: timedelta) -> None:
        self.name = name
        self.skew = skew
        self.is_alive = True
        self.frozen_until = 0.0
        self.was_frozen_at = float("-inf")
        self.tasks: list[Task] = []
        self.aside: list[Task] = []
        self.relays: list[Wire] = []
        self.limits: list[int] = []
        self._world = world
        line = Line(world, self)
        jobs = JobStore(line, world.keys)
        self.client_of = doors(world)
        self.runner = Runner(
            jobs=jobs,
            operations=OperationStore(line, world.keys, jobs),
            client_of=self.ask,
            now=lambda: world.fleet.clock.moment() + skew,
            carry=self.carry,
        )
        steady = Line(world, self, is_steady=True)
        self.keeper = JobStore(steady, world.keys)
        self.operations = OperationStore(steady, world.keys, self.keeper)
        self.prober = Prober(jobs.servers, self.ask, name)
        self._world.fleet.clock.call_in(LEASE.total_seconds() / 3, self.keep)

    def ask(self, remote: str) -> LxdClient:
        """Its client of a server, as long as the remotes are what they are."""
        return self.client_of(remote)

    def carry(self, source: LxdClient, offer: Offer, target: LxdClient, awaited: Offer, limit: int) -> None:
        """Relay as long as it lives, as fast as it goes."""
        self.limits.append(limit)
        self.relays.append(relay(self._world.fleet, source, offer, target, awaited))

    def hang_up(self) -> None:
        """What it relayed breaks."""
        for wire in self.relays:
            wire.cut()

    @property
    def is_frozen(self) -> bool:
        return self._world.now() < self.frozen_until

    @property
    def is_up(self) -> bool:
        return self.is_alive and not self.is_frozen

    @property
    def can_take(self) -> bool:
        """Whether it has a thread for another wake-up."""
        return self.is_up and len(self.tasks) < THREADS

    def keep(self) -> None:
        """What its keeper does every third of a lease: prolong those of the jobs that it holds."""
        if not self.is_alive:
            return
        self._world.fleet.clock.call_in(LEASE.total_seconds() / 3, self.keep)
        if self.is_frozen:
            return
        for claim in self.runner.held.snapshot():
            try:
                self.keeper.renew(claim)
            except (FenceLost, redis.RedisError) as error:
                self._world.tell(f"{self.name} cannot renew {claim.job.id}: {error}")

    def begin(self, job_id: str) -> None:
        """Answer a wake-up."""

        def answer() -> None:
            try:
                self.runner.advance(job_id)
            except redis.RedisError as error:
                # As in dramatiq: the message is gone, and the worker goes on.
                self._world.tell(f"{self.name} cannot answer the wake-up of {job_id}: {error}")

        self.tasks.append(Task(f"{self.name}:{job_id}", answer))

    def begin_aside(self, name: str, work: Callable[[], None]) -> None:
        """Do something beside the jobs, as the keeper's other threads do."""
        self.aside.append(Task(f"{self.name}:{name}", work))

    def listener(self, remote: str) -> Listener:
        """It as the one that listens to this server."""
        return Listener(remote, self.client_of(remote), self.operations)

    def every_task(self) -> list[Task]:
        return [*self.tasks, *self.aside]

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.frozen_until = self._world.now() + seconds
        self.was_frozen_at = self._world.now()
        for wire in self.relays:
            wire.release(hold_after=-1)
        self._world.fleet.clock.call_in(seconds, self._thaw)

    def _thaw(self) -> None:
        if not self.is_frozen:
            for wire in self.relays:
                wire.release()

    def forget_servers(self) -> None:
        """Started again with the remotes as they are now."""
        self.client_of = doors(self._world)
