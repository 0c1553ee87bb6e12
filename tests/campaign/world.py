"""One trial's machinery: simulated servers, worker processes, Redis and time, and the scheduler that moves them.

Everything happens in turns. Whose turn is next, when a message arrives and how long anything takes is drawn from the
trial's seed, so that a trial can be made again.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgpack
import redis
import tenacity

from common.domain.errors import HerderError
from common.domain.job import Job, State
from common.lxd import records
from common.messages import QUEUES
from common.store.jobs import JobStore
from common.store.keys import Keys
from tests.campaign.baton import Killed, Task
from tests.campaign.door import doors
from tests.campaign.line import Line, scripts_in_virtual_time
from tests.campaign.outages import Copy, Outages
from tests.campaign.worker import Worker
from tests.simulator import Fleet, Server, VirtualClock, states
from tests.simulator.events import Subscription

_TAKE = """local taken = {}
for _, phase in ipairs(ARGV) do
  local queue = KEYS[1] .. ':' .. phase
  for _, id in ipairs(redis.call('LRANGE', queue, 0, -1)) do
    taken[#taken + 1] = redis.call('HGET', queue .. '.msgs', id)
  end
  redis.call('DEL', queue, queue .. '.msgs')
end
return taken"""

#: How often the other worker goes on at a point where nothing else happens.
_SWITCHES = 0.04
_RECONCILE = 10.0
_PROBE = 1.0
#: A trial that is not at rest after this many virtual seconds never will be.
_PATIENCE = 1500.0
_TURNS = 60_000


class Restless(Exception):
    """Jobs that do not come to rest."""


@dataclass
class Posts:
    """What is to happen to the next messages: how many are lost, doubled, late; and what a listener does not hear."""

    lost: int = 0
    doubled: int = 0
    late: int = 0
    shuffled: int = 0
    events_lost: int = 0


@dataclass(order=True)
class _Letter:
    at: float
    number: int
    job: str = field(compare=False)


class World:
    """``seed`` decides about everything that is not decided elsewhere."""

    def __init__(self, pool: redis.ConnectionPool, seed: int, *, switches: float = _SWITCHES) -> None:
        self.pool = pool
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.fleet = Fleet(self.clock, seed=seed)
        self.keys = Keys("herder")
        self.outages = Outages()
        self.posts = Posts()
        self.happened: Counter[str] = Counter()
        self.story: list[tuple[float, str]] = []
        self.protests: list[str] = []
        self.workers: list[Worker] = []
        #: Called at every point with what comes next and whether it changes something; may kill or freeze.
        self.at_points: list[Callable[[Worker, str, bool], None]] = []
        #: What people do, and when.
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._mail: list[_Letter] = []
        self._numbers = iter(range(10**9))
        self._heard: dict[str, Subscription] = {}
        self._has_mail = True
        self._reconciled: dict[str, float] = {}
        self._probed: dict[str, float] = {}
        self._current: tuple[Worker, Task] | None = None
        self._switches = switches
        self._claimed = self._robbed = ""
        self._raw: Any = redis.Redis(connection_pool=pool)
        self._raw.flushdb()
        self.store = JobStore(Line(self, None, is_steady=True), self.keys)
        self.client_of = doors(self)
        #: Called before Redis is emptied.
        self.remember: Callable[[], None] = lambda: None

    # Time and turns.

    def now(self) -> float:
        return self.clock.now()

    def redis_ms(self) -> int:
        """The time by Redis' clock."""
        return int(self.clock.moment().timestamp() * 1000)

    def tell(self, what: str) -> None:
        """One line of the trial's story."""
        self.story.append((self.now(), what))

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Somebody outside does something, in so many seconds, between two turns."""
        self._agenda.append((self.now() + seconds, next(self._numbers), act))
        self._agenda.sort(key=lambda each: each[:2])

    def point(self, what: str, *, is_write: bool) -> None:
        """A place in which a worker may die, sleep or lose its turn."""
        if self._current is None:
            return
        worker, task = self._current
        if task.is_killed:
            raise Killed
        for act in list(self.at_points):
            act(worker, what, is_write)
        if not worker.is_alive or worker.is_frozen or self.random.random() < self._switches:
            self._yield(task)

    def pause_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait without holding others up; outside of workers time just passes."""
        if self._current is None:
            self.clock.wait(ready, seconds)
        elif not ready():
            self._yield(self._current[1], ready, self.now() + seconds)

    def sleep(self, seconds: float) -> None:
        """As ``time.sleep``."""
        self.pause_until(lambda: False, seconds)

    def _yield(self, task: Task, ready: Callable[[], bool] | None = None, deadline: float | None = None) -> None:
        holder, self._current = self._current, None
        try:
            task.pause(ready, deadline)
        finally:
            self._current = holder

    def _resume(self, worker: Worker, task: Task) -> None:
        self._current = (worker, task)
        try:
            task.resume()
        finally:
            self._current = None
        self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        worker.tasks = [task for task in worker.tasks if not task.is_over]
        worker.aside = [task for task in worker.aside if not task.is_over]

    # Workers.

    def hire(self, name: str, skew: timedelta = timedelta(0)) -> Worker:
        """Start a worker process."""
        worker = Worker(self, name, skew)
        self.workers.append(worker)
        return worker

    def kill(self, worker: Worker, *, back_in: float) -> None:
        """SIGKILL; somebody starts another one. Who kills the worker whose turn it is does it by ``is_alive`` only."""
        if not worker.is_alive:
            return
        worker.is_alive = False
        self.tell(f"{worker.name} is killed")
        name = f"{worker.name.partition('.')[0]}.{next(self._numbers)}"
        self.later(back_in, lambda: self._replace(worker, name))

    def _replace(self, worker: Worker, name: str) -> None:
        self.tell(f"{name} starts")
        self.hire(name, worker.skew)

    def _clear_the_dead(self) -> None:
        for worker in [each for each in self.workers if not each.is_alive]:
            worker.hang_up()
            for task in worker.every_task():
                task.kill()
                self._current = None
            self.workers.remove(worker)

    def close(self) -> None:
        """End all threads."""
        for worker in self.workers:
            worker.is_alive = False
        self._clear_the_dead()

    def scripted(self, script: str, worker: Worker | None, answer: Any) -> None:
        """A script was run."""
        self._has_mail = True
        if script == "claim" and worker is not None and answer[0] == b"ok":
            self.tell(f"{worker.name} takes {self._claimed}")
            if self._robbed:
                self.protests.append(f"{worker.name} took {self._claimed} from {self._robbed}, which is alive and well")

    def watch_claim(self, taker: Worker, job_id: str) -> None:
        """Somebody asks for a job: it is never given away while its holder is well."""
        self._claimed, self._robbed = job_id, ""
        if self.outages.has_lost:
            return
        owner = self._raw.hget(self.keys.job(job_id), "owner")
        for other in self.workers:
            held = {claim.job.id: claim.owner for claim in other.runner.held.snapshot()}
            was_frozen = other.was_frozen_at > float("-inf")
            if other is not taker and other.is_up and not was_frozen and held.get(job_id, "?").encode() == owner:
                self._robbed = other.name

    # The scheduler.

    def run_until_rest(self) -> None:
        """Let everybody have their turns until nothing more happens by itself. Raises Restless."""
        begun, turns = self.now(), 0
        while self._turn():
            turns += 1
            if self.now() - begun > _PATIENCE or turns > _TURNS:
                left = [f"{job.id} {job.state} at {job.step} ({job.blocked_on})" for job in self.jobs_at_work()]
                raise Restless(f"not at rest after {self.now() - begun:.0f} s and {turns} turns: {'; '.join(left)}")

    def settle(self, seconds: float) -> None:
        """Let time pass for whatever comes late."""
        self.clock.advance(seconds)

    def jobs(self) -> list[Job]:
        """All jobs that Redis knows."""
        raw = redis.Redis(connection_pool=self.pool)
        store = JobStore(raw, self.keys)
        return [job for plan in sorted(store.plans()) for job in store.jobs(plan)]

    def jobs_at_work(self) -> list[Job]:
        return [job for job in self.jobs() if not job.has_ended and job.state is not State.PAUSED]

    def _turn(self) -> bool:
        """One turn of somebody; False if all is at rest."""
        self._clear_the_dead()
        while self._agenda and self._agenda[0][0] <= self.now():
            self._agenda.pop(0)[2]()
            return True
        self._fetch_mail()
        self._hear()
        turns = [(worker, task) for worker in self.workers if worker.is_up for task in worker.every_task()]
        turns = [(worker, task) for worker, task in turns if task.can_run(self.now())]
        free = [worker for worker in self.workers if worker.can_take]
        letters = [letter for letter in self._mail if letter.at <= self.now()]
        if letters and free and (not turns or self.random.random() < 0.5):
            letter = letters[0]
            self._mail.remove(letter)
            self.random.choice(free).begin(letter.job)
            return True
        if turns:
            self._resume(*self.random.choice(turns))
            return True
        return self._let_time_pass()

    def _fetch_mail(self) -> None:
        if not self._has_mail or self.now() < self.outages.away_until:
            return
        self._has_mail = False
        taken = self._raw.eval(_TAKE, 1, self.keys.dramatiq, *(phase.value for phase in QUEUES))
        for body in taken:
            for at in self._arrivals():
                self._mail.append(_Letter(at, next(self._numbers), _job_in(body)))
        self._mail.sort()

    def wake(self, job_id: str, seconds: float) -> None:
        """A message for this job arrives in so many seconds."""
        self._mail.append(_Letter(self.now() + seconds, next(self._numbers), job_id))
        self._mail.sort()

    def _arrivals(self) -> list[float]:
        """When a message arrives: once, as a rule."""
        posts, now = self.posts, self.now()
        at = now + self.random.uniform(0.0, 0.02)
        if posts.lost:
            posts.lost -= 1
            self.happened["wake-up-lost"] += 1
            return []
        if posts.doubled:
            posts.doubled -= 1
            self.happened["wake-up-doubled"] += 1
            return [at, now + self.random.choice([0.0, 0.1, 3.0, 17.0])]
        if posts.late:
            posts.late -= 1
            self.happened["wake-up-late"] += 1
            return [now + self.random.uniform(1.0, 40.0)]
        if posts.shuffled:
            posts.shuffled -= 1
            self.happened["wake-ups-reordered"] += 1
            return [now + self.random.uniform(0.0, 1.0)]
        return [at]

    def _hear(self) -> None:
        """Listeners take the events that have come."""
        for name, server in self.fleet.servers.items():
            heard = self._heard.get(name)
            if heard is None or not heard.is_open:
                if not server.is_up or server.is_frozen or not self._somebody():
                    continue
                heard = self._heard[name] = server.events.subscribe({"type": "operation", "all-projects": "true"})
                self._reconciled[name] = float("-inf")
            while heard.queue:
                event = heard.queue.popleft()
                operation = records.operation(event["metadata"])
                if not operation.is_finished and "fs_progress" not in operation.metadata:
                    continue
                if operation.is_finished and self.posts.events_lost:
                    self.posts.events_lost -= 1
                    self.happened["event-lost"] += 1
                    continue
                worker = self._somebody()
                if worker is None:
                    continue
                try:
                    worker.listener(name).take(operation)
                except redis.RedisError:
                    self._reconciled[name] = float("-inf")

    def _somebody(self) -> Worker | None:
        return next((worker for worker in self.workers if worker.is_up), None)

    def _let_time_pass(self) -> bool:
        """Nobody can do anything now: go to the moment when somebody can."""
        due = self._next_due()
        if due is not None and due <= self.now():
            if self._look_after_servers():
                return True
            worker = self._somebody()
            if worker is not None and self.now() >= self._redis_back():
                worker.keeper.pump()
                self._has_mail = True
                return True
        if self._look_after_servers():
            return True
        coming = [letter.at for letter in self._mail] + [at for at, _, _ in self._agenda[:1]]
        tasks = [task for worker in self.workers for task in worker.every_task()]
        if due is None and not coming and not tasks and not self.jobs_at_work():
            return False
        coming += [task.deadline for task in tasks if task.deadline is not None]
        coming += [worker.frozen_until for worker in self.workers if worker.is_frozen]
        if due is not None:
            coming.append(due)
        if self.now() < self._redis_back():
            coming.append(self._redis_back())
        timer = self.clock._next()
        if timer is not None:
            coming.append(timer)
        coming = [at for at in coming if at > self.now()]
        until = min([*coming, self.now() + _PROBE])
        self.clock.advance(max(0.001, until - self.now()))
        return True

    def _redis_back(self) -> float:
        return max(self.outages.away_until, self.outages.read_only_until, self.outages.full_until)

    def _next_due(self) -> float | None:
        found = self._raw.zrange(self.keys.due, 0, 0, withscores=True)
        if not found:
            return None
        return float(found[0][1]) / 1000 - self.clock.epoch.timestamp()

    def _look_after_servers(self) -> bool:
        """Listeners compare, probers ask."""
        if self.now() < self._redis_back():
            return False
        did = False
        for name in self.fleet.servers:
            worker = self._somebody()
            if worker is None:
                return did
            if self.now() - self._reconciled.get(name, 0.0) >= _RECONCILE and not worker.aside:
                self._reconciled[name] = self.now()
                if self._raw.hlen(self.keys.waiting(name)):
                    worker.begin_aside(f"reconcile {name}", lambda name=name, worker=worker: _reconcile(worker, name))  # type: ignore[misc]
                    did = True
        for trouble in self.store.servers.set_aside():
            name, worker = trouble.remote, self._somebody()
            if worker is not None and self.now() - self._probed.get(name, float("-inf")) >= _PROBE and not worker.aside:
                self._probed[name] = self.now()
                worker.begin_aside(f"probe {name}", lambda name=name, worker=worker: _probe(worker, name))  # type: ignore[misc]
                did = True
        return did

    # What happens to Redis.

    def lose_redis(self, kind: str, *, window: float, away: float) -> None:
        """It dies ``window`` seconds from now and is back after ``away``, as it was at this moment."""
        kept = Copy(self._raw)

        def strike() -> None:
            self.happened[kind] += 1
            self.tell(f"{kind}: {window:.2f} s lost, away for {away:.1f} s")
            self.roll_back(kept, away=away)
            self._restart_workers(away)

        self.later(window, strike)

    def roll_back(self, kept: Copy, *, away: float) -> None:
        """It is back, ``away`` seconds from now, as it once was."""
        self.outages.has_lost = True
        kept.restore()
        self.outages.away_until = self.now() + away
        self._mail.clear()
        self._has_mail = True

    def disturb_redis(self, kind: str, seconds: float) -> None:
        """It takes no more writes for a while."""
        until = self.now() + seconds
        self.outages.has_lost = True
        if kind == "redis-read-only":
            self.outages.read_only_until = until
        else:
            self.outages.full_until = until
        self.happened[kind] += 1
        self.tell(f"{kind} for {seconds:.1f} s")
        self._restart_workers(seconds)

    def _restart_workers(self, after: float) -> None:
        """Crash-only: who has seen the outage ends itself when it is over, and is started again."""
        for worker in list(self.workers):
            if self.random.random() < 0.8:
                seconds = after + self.random.uniform(0.0, 2.0)
                self.later(seconds, lambda worker=worker: self.kill(worker, back_in=0.5))  # type: ignore[misc]

    def empty_redis(self) -> None:
        """FLUSHALL."""
        self.remember()
        self.outages.has_lost = True
        self._raw.flushdb()
        self._mail.clear()
        self.happened["redis-emptied"] += 1
        self.tell("redis is emptied")

    # The end of all faults.

    def calm_down(self) -> None:
        """Nothing more goes wrong, and what went wrong is over."""
        self.at_points.clear()
        self.posts = Posts()
        self.outages.answers_to_lose.clear()
        self.fleet.faults.clear()
        for server in self.fleet.servers.values():
            for name in list(server.stubborn):
                obey(server, name)
            server.failing_starts.clear()
            server.meeting.clear()

    def trust_again(self) -> None:
        """A person has added the remotes again."""
        self.client_of = doors(self)
        for worker in self.workers:
            worker.forget_servers()


def obey(server: Server, name: str) -> None:
    """What does not stop does now: somebody has ended the process that hung."""
    server.stubborn.discard(name)
    instance = server.instances.get(("default", name))
    for operation in server.operations.running():
        about_it = f"/1.0/instances/{name}" in operation.resources.get("instances", ())
        if instance is not None and about_it and operation.description == "Stopping instance":
            states._guest_ends(server, instance, operation, is_forced=True)


def _job_in(body: bytes) -> str:
    return str(msgpack.unpackb(body)["kwargs"]["job_id"])


def _reconcile(worker: Worker, remote: str) -> None:
    try:
        worker.listener(remote).reconcile()
    except (HerderError, redis.RedisError):
        return


def _probe(worker: Worker, remote: str) -> None:
    try:
        worker.prober.probe(remote)
    except redis.RedisError:
        return


@contextmanager
def virtual_waits(world: World) -> Iterator[None]:
    """Inside the block tenacity measures and sleeps in the world's time, and its jitter is the seed's."""
    time = SimpleNamespace(sleep=world.sleep, monotonic=world.now, time=world.now)
    random.seed(world.random.random())
    with mock.patch.object(tenacity, "time", time), mock.patch.object(tenacity.nap, "time", time):
        yield


@contextmanager
def open_world(pool: redis.ConnectionPool, seed: int, *, switches: float) -> Iterator[World]:
    """A world in which scripts and waits take its own time; it is closed at the end."""
    with scripts_in_virtual_time():
        world = World(pool, seed, switches=switches)
        with virtual_waits(world):
            try:
                yield world
            finally:
                world.close()
