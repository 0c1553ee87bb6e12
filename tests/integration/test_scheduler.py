"""Schedulers over a real Redis: each run is submitted exactly once, whoever dies when."""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from redis import Redis

from common.domain.backup import BackupPolicy, BackupTarget, Schedule
from common.domain.errors import ServerUnreachable
from common.domain.job import Job, State
from common.domain.plan import Plan, Selection
from common.store.codec import encode
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.runs import Run, RunStore
from producer import backup
from producer.scheduler import LEASE, Scheduler
from tests.builders import a_move, a_plan

BERLIN = ZoneInfo("Europe/Berlin")
#: Summer time begins on the 29th.
FIRST_EVENING = datetime(2026, 3, 10, 18, tzinfo=UTC)
NIGHTLY = BackupPolicy(
    name="nightly",
    select=Selection(source="s1"),
    schedule=Schedule(when="30 2 * * *", zone="Europe/Berlin", jitter=timedelta(minutes=20)),
    targets=(BackupTarget(remote="s2"), BackupTarget(remote="s3")),
)


class Killed(BaseException):
    """SIGKILL: nothing more is done, nothing is cleaned up."""


@dataclass
class Site:
    """The schedulers' world: a clock, servers that count what is planned, and a store."""

    jobs: JobStore
    runs: RunStore
    redis: "Redis"
    now: datetime = FIRST_EVENING
    policy: BackupPolicy = NIGHTLY
    planned: list[datetime] = field(default_factory=list)
    done: dict[str, datetime] = field(default_factory=dict)
    is_source_away: bool = False
    asked: int = 0

    def scheduler(self, name: str, dies: Callable[[str], None] = lambda _: None) -> Scheduler:
        """One that may die before and after each thing that it does to the store."""
        return Scheduler(
            name=name,
            policies=lambda: (self.policy,),
            plans_for=self.plans_for,
            newest_on_targets=lambda _: max(self.done.values(), default=None),
            jobs=_Dying(self.jobs, dies),  # type: ignore[arg-type]
            runs=_Dying(self.runs, dies),  # type: ignore[arg-type]
            now=self.tick,
        )

    def tick(self) -> datetime:
        """No clock tells the same twice."""
        self.now += timedelta(microseconds=1)
        return self.now

    def plans_for(self, policy: BackupPolicy, at: datetime) -> tuple[Plan, ...]:
        """Two instances at one time, three at another: whoever plans again sees other servers."""
        self.asked += 1
        if self.is_source_away:
            raise ServerUnreachable("s1 does not answer")
        self.planned.append(at)
        moves = tuple(a_move(instance=f"c{number}") for number in range(2 + len(self.planned) % 2))
        ids = [backup.plan_id(policy.name, at, target.remote) for target in policy.targets]
        return tuple(a_plan(*moves, id=each) for each in ids)

    def workers_work(self) -> None:
        """All jobs end, and the generations are there."""
        for plan in self.jobs.plans():
            for job in self.jobs.jobs(plan):
                self.redis.hset(self.runs._keys.job(job.id), "record", _ended(job))

    def submitted(self) -> dict[str, int]:
        return {plan: len(self.jobs.jobs(plan)) for plan in self.jobs.plans()}


class _Dying:
    """A store whose user may die around each call."""

    def __init__(self, store: object, dies: Callable[[str], None]) -> None:
        self._store, self._dies = store, dies

    def __getattr__(self, name: str) -> object:
        method = getattr(self._store, name)

        def call(*args: object, **kwargs: object) -> object:
            self._dies(f"before {name}")
            answer = method(*args, **kwargs)
            self._dies(f"after {name}")
            return answer

        return call


def _ended(job: Job) -> bytes:
    return encode(replace(job, state=State.DONE, finished_at=FIRST_EVENING))


@pytest.fixture
def site(store: JobStore, redis_client: "Redis", keys: Keys) -> Site:
    return Site(store, RunStore(redis_client, keys), redis_client)


def nights(site: Site) -> list[datetime]:
    """All due moments that have passed, by Berlin's clock."""
    first = FIRST_EVENING.astimezone(BERLIN)
    found = [
        datetime(first.year, first.month, first.day, 2, 30, tzinfo=BERLIN) + timedelta(days=n) for n in range(1, 99)
    ]
    # At 02:30 of the 29th there is no such time; cron takes the first that there is.
    return [each if each.day != 29 else each.replace(hour=3, minute=0) for each in found if each < site.now]


def ids(site: Site) -> list[str]:
    return sorted(
        backup.plan_id("nightly", night, target.remote) for night in nights(site) for target in NIGHTLY.targets
    )


@pytest.mark.parametrize("seed", range(4))
def test_two_schedulers_killed_in_turn_run_each_night_exactly_once(site: Site, seed: int) -> None:
    """Thirty nights with the beginning of summer time; each night one dies somewhere, and the other goes on."""
    chance = random.Random(seed)

    def dies_at(count: int) -> Callable[[str], None]:
        left = iter(range(count))

        def dies(_: str) -> None:
            if next(left, None) is None:
                raise Killed

        return dies

    site.scheduler("s-0").turn()
    for night in range(1, 31):
        site.now += timedelta(days=1) - timedelta(hours=site.now.hour - 18)
        with suppress(Killed):
            for _ in range(9):
                site.scheduler(f"s-{night}-a", dies_at(chance.randrange(40))).turn()
                site.now += timedelta(minutes=1)
        site.redis.delete(site.runs._keys.scheduler)  # its lease ends
        for _ in range(3):
            assert site.scheduler(f"s-{night}-b").turn()
            site.now += timedelta(minutes=1)
        site.redis.delete(site.runs._keys.scheduler)
        site.workers_work()
    assert sorted(site.submitted()) == ids(site)
    for plan, jobs in site.submitted().items():
        assert jobs == len(site.jobs.plan(plan).moves)


def test_only_one_acts_and_the_other_takes_over(site: Site) -> None:
    assert site.scheduler("a").turn()
    assert not site.scheduler("b").turn()
    assert 0 < site.redis.pttl(site.runs._keys.scheduler) <= LEASE.total_seconds() * 1000
    site.runs.leave("a")
    assert site.scheduler("b").turn()


def test_many_missed_nights_are_one_run(site: Site) -> None:
    one = site.scheduler("a")
    one.turn()
    site.now += timedelta(days=9)
    one.turn()
    one.turn()
    assert [at.astimezone(BERLIN).isoformat() for at in site.planned] == ["2026-03-19T02:30:00+01:00"]


def test_a_run_waits_for_the_one_before_it_and_says_so(site: Site) -> None:
    one = site.scheduler("a")
    one.turn()
    for _ in range(2):
        site.now += timedelta(days=1)
        one.turn()
    assert len(site.planned) == 1
    newest = site.runs.newest("nightly")
    assert newest is not None
    assert newest.plans[0] in newest.blocked_on
    site.workers_work()
    one.turn()
    assert len(site.planned) == 2


def test_a_server_that_is_down_delays_a_run_until_its_window_ends(site: Site) -> None:
    site.policy = replace(NIGHTLY, schedule=replace(NIGHTLY.schedule, window=timedelta(hours=2)))
    one = site.scheduler("a")
    one.turn()
    site.now, site.is_source_away = datetime(2026, 3, 11, 2, 0, tzinfo=UTC), True
    one.turn()
    newest = site.runs.newest("nightly")
    assert newest is not None
    assert "s1 does not answer" in newest.blocked_on
    site.now, site.is_source_away = datetime(2026, 3, 11, 6, 0, tzinfo=UTC), False
    one.turn()
    assert site.submitted() == {}
    site.now = datetime(2026, 3, 12, 2, 0, tzinfo=UTC)
    one.turn()
    assert len(site.submitted()) == 2


def test_a_missed_run_does_not_forget_the_one_that_goes_on(site: Site) -> None:
    """It outlasts the whole window of the next one; the one after that must not begin beside it either."""
    site.policy = replace(NIGHTLY, schedule=replace(NIGHTLY.schedule, window=timedelta(hours=2)))
    one = site.scheduler("a")
    one.turn()
    site.now = datetime(2026, 3, 11, 2, 0, tzinfo=UTC)
    one.turn()
    for hour in (2, 6, 26):
        site.now = datetime(2026, 3, 12, tzinfo=UTC) + timedelta(hours=hour)
        one.turn()
    assert len(site.planned) == 1
    site.workers_work()
    one.turn()
    assert len(site.planned) == 2


def test_a_server_that_is_down_is_asked_once_a_minute_and_told_of_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "herder.scheduler")
    one = site.scheduler("a")
    one.turn()
    site.is_source_away, site.now = True, datetime(2026, 3, 11, 2, 0, tzinfo=UTC)
    asked = 0
    for _ in range(36):
        before = site.asked
        one.turn()
        asked += site.asked > before
        site.now += timedelta(seconds=5)
    assert asked == 3
    assert [record.getMessage().split()[0] for record in caplog.records].count("run.waits") == 1


def test_a_server_that_is_down_at_the_first_look_is_told_of_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "herder.scheduler")
    one = replace(site.scheduler("a"), newest_on_targets=_away)
    for _ in range(4):
        one.turn()
        site.now += timedelta(minutes=1)
    assert site.runs.newest("nightly") is None
    assert [record.getMessage().split()[0] for record in caplog.records].count("run.waits") == 1


def _away(_: BackupPolicy) -> None:
    raise ServerUnreachable("s2 does not answer")


def test_a_scheduler_that_was_away_for_long_forgets_no_newer_run(site: Site) -> None:
    site.runs.record("nightly", Run(at=FIRST_EVENING, plans=("new",)))
    site.runs.record("nightly", Run(at=FIRST_EVENING - timedelta(days=1), plans=("old",)))
    newest = site.runs.newest("nightly")
    assert newest is not None
    assert newest.plans == ("new",)


def test_a_run_of_the_future_is_told_of(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The clock of a scheduler's host was wrong once; nothing would ever be due, and nobody would know."""
    caplog.set_level("INFO", "herder.scheduler")
    site.runs.record("nightly", Run(at=FIRST_EVENING + timedelta(days=400)))
    site.scheduler("a").turn()
    assert "this host's clock" in caplog.text


def test_one_that_planned_for_too_long_submits_nothing(site: Site) -> None:
    """Meanwhile another one acts."""
    one, other = site.scheduler("a"), site.scheduler("b")
    one.turn()

    def slowly(policy: BackupPolicy, at: datetime) -> tuple[Plan, ...]:
        site.redis.delete(site.runs._keys.scheduler)
        assert other.runs.act("b", LEASE)
        return site.plans_for(policy, at)

    site.now = datetime(2026, 3, 11, 2, 0, tzinfo=UTC)
    assert not replace(one, plans_for=slowly).turn()
    assert site.submitted() == {}


@pytest.mark.parametrize("had_run", [False, True], ids=["never run", "run before"])
def test_a_redis_that_lost_everything_repeats_no_run(site: Site, *, had_run: bool) -> None:
    """What is on the targets counts; a policy that never ran begins with its next night."""
    site.now = datetime(2026, 3, 11, 18, tzinfo=UTC)
    if had_run:
        site.done["c1"] = datetime(2026, 3, 10, 1, 30, tzinfo=UTC)
    site.scheduler("a").turn()
    assert [at.astimezone(BERLIN).day for at in site.planned] == ([11] if had_run else [])


def test_no_attempt_begins_before_the_jitter_and_each_begins_at_the_same_moment(site: Site) -> None:
    one = site.scheduler("a")
    one.turn()
    begun: list[datetime] = []
    for _ in _minutes(site, datetime(2026, 3, 11, 1, 25, tzinfo=UTC), 40):
        before = len(site.planned)
        one.turn()
        if len(site.planned) > before:
            begun.append(site.now)
    (moment,) = begun
    assert timedelta(0) <= moment - datetime(2026, 3, 11, 1, 30, tzinfo=UTC) <= timedelta(minutes=21)


def _minutes(site: Site, first: datetime, count: int) -> Iterator[int]:
    for number in range(count):
        site.now = first + timedelta(minutes=number)
        yield number
