"""The monitor over a real Redis: each alert is told once, whoever looks, and its end too."""

import socketserver
import threading
import urllib.request
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from common.domain.backup import BackupPolicy, BackupTarget, Schedule
from common.domain.errors import InputError, ServerUnreachable
from common.domain.job import State
from common.domain.plan import Selection
from common.store.codec import encode
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.runs import Run, RunStore
from producer.ages import Age
from producer.monitor import Messenger, Metrics, Monitor
from tests.builders import a_plan
from tests.integration.conftest import stored

NOW = datetime(2026, 3, 10, 18, tzinfo=UTC)
POLICY = BackupPolicy(
    name="nightly",
    select=Selection(source="s1"),
    schedule=Schedule(when="daily"),
    targets=(BackupTarget(remote="s2"),),
    rpo=timedelta(hours=26),
)


@dataclass
class Desk:
    """Whoever is told, what the servers answer, and the clock."""

    jobs: JobStore
    runs: RunStore
    now: datetime = NOW
    age: timedelta = timedelta(hours=1)
    is_away: bool = False
    hears: bool = True
    told: list[tuple[str, str]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    def monitor(self) -> Monitor:
        """One that has told nothing itself."""
        return Monitor(
            ages_of=self.ages, tell=self.tell, jobs=self.jobs, runs=self.runs, metrics=self.metrics,
            now=lambda: self.now,
        )  # fmt: skip

    def ages(self, policy: BackupPolicy) -> list[Age]:
        if self.is_away:
            raise ServerUnreachable("s2 does not answer")
        return [
            Age(
                policy=policy.name, source="s1:default/web1", target="s2", last_good=self.now - self.age,
                generation="g", age=self.age, rpo=policy.rpo,
            )
        ]  # fmt: skip

    def tell(self, title: str, body: str) -> bool:
        if self.hears:
            self.told.append((title, body))
        return self.hears

    def texts(self) -> list[str]:
        told, self.told = self.told, []
        return [line for _, body in told for line in body.splitlines()]


@pytest.fixture
def desk(store: JobStore, redis_client: "Redis", keys: Keys) -> Desk:
    return Desk(store, RunStore(redis_client, keys))


def look(desk: Desk, *monitors: Monitor, after: timedelta = timedelta(minutes=5)) -> list[str]:
    desk.now += after
    for each in monitors:
        each.look((POLICY,))
    return desk.texts()


def test_a_breach_is_told_once_and_its_end_once_whoever_looks(desk: Desk) -> None:
    one, other = desk.monitor(), desk.monitor()
    assert look(desk, one) == []
    desk.age = timedelta(hours=27)
    (told,) = look(desk, one, other)
    assert told.startswith("breach: policy nightly: the last good backup of s1:default/web1 on s2 is 27.0 h old")
    assert look(desk, one, other, desk.monitor()) == []
    desk.age = timedelta(hours=1)
    assert look(desk, other, one) == ["over: breach: nightly s1:default/web1 -> s2"]


def test_a_message_that_could_not_be_sent_is_sent_a_minute_later(desk: Desk) -> None:
    one = desk.monitor()
    desk.age, desk.hears = timedelta(hours=27), False
    assert look(desk, one) == []
    desk.hears = True
    assert look(desk, one, after=timedelta(seconds=5)) == []
    assert len(look(desk, one, after=timedelta(minutes=1))) == 1


def test_a_server_that_cannot_be_asked_is_told(desk: Desk) -> None:
    one = desk.monitor()
    desk.is_away = True
    (told,) = look(desk, one)
    assert "nobody can tell how old its backups are: s2 does not answer" in told
    desk.is_away = False
    assert look(desk, one) == ["over: unseen: nightly"]


def test_a_run_that_waits_or_was_missed_is_told(desk: Desk) -> None:
    one = desk.monitor()
    desk.runs.record("nightly", Run(at=NOW, blocked_on="s1, which does not answer"))
    assert look(desk, one) == ["waiting: policy nightly: a run is due and waits for s1, which does not answer"]
    desk.runs.record("nightly", Run(at=NOW + timedelta(days=1), missed=True))
    missed, over = look(desk, one)
    assert "its run of 2026-03-11T18:00:00+00:00 was not made" in missed
    assert over == "over: waiting: nightly"
    desk.runs.record("nightly", Run(at=NOW + timedelta(days=2)))
    assert look(desk, one) == ["over: missed: nightly"]


def test_a_parked_job_of_the_newest_run_is_told_and_plans_that_are_gone_are_not_missed(
    desk: Desk, redis_client: "Redis"
) -> None:
    one, plan = desk.monitor(), stored(a_plan(), desk.jobs)
    (job,) = desk.jobs.jobs(plan.id)
    desk.runs.record("nightly", Run(at=NOW, plans=(plan.id, "gone")))
    assert look(desk, one) == []
    redis_client.hset(desk.runs._keys.job(job.id), "record", encode(replace(job, state=State.PARKED)))
    (told,) = look(desk, one)
    assert f"herder retry {job.id}" in told


def read_from(port: int) -> dict[str, float]:
    """What a Prometheus would read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_prometheus_reads_what_stands(desk: Desk) -> None:
    desk.age = timedelta(hours=27)
    desk.runs.record("nightly", Run(at=NOW, missed=True))
    look(desk, desk.monitor())
    desk.metrics.acts.set(1)
    with pytest.raises(InputError, match="metrics: cannot listen"):
        desk.metrics.serve("127.0.0.1:many")
    read = read_from(desk.metrics.serve("127.0.0.1:0"))
    last_good = (desk.now - desk.age).timestamp()
    labels = 'policy="nightly",source="s1:default/web1",target="s2"'
    assert read[f"herder_backup_last_good_timestamp_seconds{{{labels}}}"] == last_good
    assert read[f"herder_backup_breached{{{labels}}}"] == 1
    assert read['herder_policy_alerts{cause="breach",policy="nightly"}'] == 1
    assert read['herder_policy_alerts{cause="missed",policy="nightly"}'] == 1
    assert read['herder_policy_alerts{cause="failure",policy="nightly"}'] == 0
    assert read['herder_policy_last_run_timestamp_seconds{policy="nightly"}'] == NOW.timestamp()
    assert read["herder_scheduler_acts"] == 1


def test_what_is_no_url_of_apprise_is_refused() -> None:
    with pytest.raises(InputError, match="notify"):
        Messenger("json://127.0.0.1:1 nonsense")


def test_a_message_that_came_to_one_of_two_places_is_told() -> None:
    """Else the one that hears would hear it every minute. Nowhere is no failure, but nobody is one."""
    with socketserver.TCPServer(("127.0.0.1", 0), _Hears) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hears, deaf = f"json://127.0.0.1:{server.server_address[1]}", "json://127.0.0.1:1"
        assert Messenger(f"{deaf} {hears}").tell("title", "body")
        server.shutdown()
    assert Messenger("").tell("title", "body")
    assert not Messenger(deaf).tell("title", "body")


class _Hears(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.request.recv(65536)
        self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")
