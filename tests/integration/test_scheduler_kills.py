"""Two schedulers, as processes, and their Redis are killed for thirty nights: each run happens exactly once."""

import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.sharedctypes import RawValue
from typing import Any, Self

import pytest
import redis

from common.domain.backup import BackupPolicy
from common.domain.job import Job, State
from common.domain.plan import Plan
from common.store.codec import encode
from common.store.connect import connect
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.runs import RunStore
from producer import backup
from producer import scheduler as schedulers
from tests.builders import a_move, a_plan
from tests.integration.redis_server import RedisServer
from tests.integration.test_scheduler import BERLIN, NIGHTLY

#: Of the afternoon before the first night. Summer time begins on 29 March and ends on 25 October.
SPRING = datetime(2026, 3, 10, 15, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 5, 15, tzinfo=UTC)
NIGHTS = 30
NAMES = ("a", "b")
_REDIS_DIES = 0.3  # of all nights


class Site:
    """A clock that the test moves, and two processes that look at it, without a lock that a victim could hold."""

    def __init__(self, server: RedisServer, keys: Keys, now: datetime) -> None:
        self.server, self.keys = server, keys
        self.clock: Any = RawValue("d", now.timestamp())
        self.done: Any = RawValue("d", 0)
        self.jobs = JobStore(connect(server.url), keys)
        self.processes = {name: self._born(name) for name in NAMES}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.value, UTC)

    def kill(self, name: str) -> None:
        """SIGKILL, and another one in its place."""
        process = self.processes[name]
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"scheduler {name} ended by itself"
        self.processes[name] = self._born(name)

    def _born(self, name: str) -> Any:
        process = multiprocessing.get_context("fork").Process(target=self._live, args=(name,))
        process.start()
        return process

    def _live(self, name: str) -> None:
        schedulers.LEASE = timedelta(seconds=0.3)  # of real time, in which nights pass
        client = connect(self.server.url, patient=False)
        one = schedulers.Scheduler(
            name=name,
            policies=lambda: (NIGHTLY,),
            plans_for=self._plans_for,
            newest_on_targets=lambda _: datetime.fromtimestamp(self.done.value, UTC) if self.done.value else None,
            jobs=JobStore(client, self.keys),
            runs=RunStore(client, self.keys),
            now=lambda: self.now,
        )
        while True:
            with suppress(redis.RedisError):
                one.turn()
            time.sleep(0.001)

    @staticmethod
    def _plans_for(policy: BackupPolicy, at: datetime) -> tuple[Plan, ...]:
        """Whoever plans again sees other servers."""
        moves = tuple(a_move(instance=f"c{number}") for number in range(random.SystemRandom().randrange(2, 5)))
        return tuple(a_plan(*moves, id=backup.plan_id(policy.name, at, to.remote)) for to in policy.targets)

    def submitted(self) -> dict[str, tuple[Job, ...]]:
        """The jobs of all plans that are there in full."""
        return {
            plan: jobs
            for plan in self.jobs.plans()
            if len(jobs := self.jobs.jobs(plan)) == len(self.jobs.plan(plan).moves)
        }

    def wait_for_plans(self, count: int) -> None:
        """Until so many are there."""
        _wait_for(lambda: len(self.submitted()) == count)

    def work(self) -> None:
        """All jobs end, and their generations are there."""
        client = connect(self.server.url)
        for jobs in self.submitted().values():
            for job in jobs:
                client.hset(
                    self.keys.job(job.id), "record", encode(replace(job, state=State.DONE, finished_at=self.now))
                )


@pytest.fixture
def server() -> Iterator[RedisServer]:
    own = RedisServer()
    own.start()
    yield own
    own.close()


@pytest.mark.parametrize("evening", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_thirty_nights_of_kills_run_each_night_exactly_once(server: RedisServer, keys: Keys, evening: datetime) -> None:
    chance = random.Random()
    expected: set[str] = set()
    with Site(server, keys, evening) as site:
        _wait_for(lambda: RunStore(connect(server.url), keys).newest("nightly") is not None)
        for night in range(1, NIGHTS + 1):
            due = _due(evening + timedelta(days=night))
            expected |= {backup.plan_id("nightly", due, to.remote) for to in NIGHTLY.targets}
            site.clock.value = (due + timedelta(hours=1)).timestamp()  # its jitter is over
            for name in chance.sample(NAMES, 2):
                time.sleep(chance.random() * 0.02)
                site.kill(name)
            if chance.random() < _REDIS_DIES:
                server.kill()
                server.start()
            site.wait_for_plans(len(expected))
            site.done.value = due.timestamp()
            site.work()
    found = site.submitted()
    assert set(site.jobs.plans()) == found.keys() == expected
    assert all(job.has_ended for jobs in found.values() for job in jobs)


def _due(day: datetime) -> datetime:
    """The run of this night by Berlin's clock, which skips 02:30 on 29 March and has it twice on 25 October."""
    local = datetime(day.year, day.month, day.day, 2, 30, tzinfo=BERLIN)
    return local.astimezone(UTC) if (day.month, day.day) != (3, 29) else datetime(2026, 3, 29, 1, tzinfo=UTC)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
