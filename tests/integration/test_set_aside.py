"""A server that does not answer is set aside: its jobs wait, one worker asks for them all, and then all go on."""

import json
import logging
import re
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import pytest
from redis import Redis
from typer.testing import CliRunner

from common.domain.errors import HerderError, NotTrusted, ServerBusy, ServerUnreachable
from common.domain.itinerary import GIVE_BACK, UNDO, WARM
from common.domain.job import GIVE_BACK_AFTER, Job, Outcome, State
from common.domain.plan import Limits, Method, Move
from common.lxd.client import LxdClient
from common.store.keys import Keys
from producer import control
from producer.cli.main import app
from tests.builders import a_move, a_plan, a_request, many_moves
from tests.integration.conftest import stored
from tests.integration.stage import Part, Stage
from workers.prober import Prober
from workers.runner import Runner
from workers.steps.context import Context

AWAY = re.compile(r"server s2 unreachable since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")
WARM_STEPS = [step.name for step in WARM.steps]
FOREVER = 100


@dataclass
class Network:
    """The servers as clients reach them: some are down, and each notes how often it was asked."""

    down: dict[str, HerderError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answered_at: dict[str, float] = field(default_factory=dict)

    def __call__(self, remote: str) -> LxdClient:
        """The client of a remote: only its transport is used."""
        return cast("LxdClient", SimpleNamespace(transport=Line(self, remote)))

    def loses(self, *remotes: str) -> None:
        """They do not answer from now on."""
        for remote in remotes:
            self.down[remote] = ServerUnreachable(f"{remote}: Connection refused", server=remote)


@dataclass
class Line:
    """The way to one server."""

    network: Network
    remote: str

    @property
    def answered_at(self) -> float:
        return self.network.answered_at.get(self.remote, float("-inf"))

    def request(self, method: str, path: str, *, timeout: float | None = None) -> Any:
        """Ask it something. Raises what was said of it."""
        assert (method, path) == ("GET", "/1.0")
        self.network.asked.append(self.remote)
        if timeout is not None and self.remote in self.network.down:
            assert timeout <= 5, "a probe is short"
        if self.remote in self.network.down:
            raise self.network.down[self.remote]
        self.network.answered_at[self.remote] = time.monotonic()


@pytest.fixture
def network() -> Network:
    """All servers answer."""
    return Network()


@dataclass
class Play:
    """A stage whose steps ask both servers of their move, or the source alone where the real step does."""

    stage: Stage
    network: Network

    def begins(self, *moves: Move, limits: Limits | None = None) -> None:
        """These moves, submitted as one plan."""
        stored(a_plan(*moves, request=a_request(limits=limits or Limits())), self.stage.store)
        for name in (*WARM_STEPS, *(step.name for step in UNDO.steps)):
            self.stage.steps.parts.setdefault(name, [self.asks] * FOREVER)

    def asks(self, ctx: Context) -> Outcome:
        """A step that needs answers."""
        ctx.source.transport.request("GET", "/1.0")
        if ctx.job.step not in {step.name for step in GIVE_BACK.steps}:
            ctx.target.transport.request("GET", "/1.0")
        return self.stage.steps.complete(ctx.job.step, ctx)

    def loses_in(self, step: str, *remotes: str) -> None:
        """While this step runs for the first time, these servers go down."""

        def part(ctx: Context) -> Outcome:
            self.network.loses(*remotes)
            return self.asks(ctx)

        self.stage.steps.parts[step] = [part, *[self.asks] * FOREVER]

    def runner(self) -> Runner:
        """A worker that reaches the servers over the network."""
        return Runner(
            jobs=self.stage.store, operations=self.stage.operations, client_of=self.network, now=self.stage.clock
        )

    def deliver(self) -> None:
        """Answer wake-ups until there are none left."""
        self.stage.store.pump()
        self.stage.deliver(self.runner())

    def look_again(self, times: int = 1) -> None:
        """All delays have passed, so many times."""
        for _ in range(times):
            for job in self.jobs():
                self.stage.wire.let_pass(job.id)
            self.deliver()

    def jobs(self) -> tuple[Job, ...]:
        """All jobs as stored."""
        return self.stage.store.jobs("p1")

    def prober(self, worker: str = "one") -> Prober:
        """The prober of a worker process."""
        return Prober(self.stage.store.servers, self.network, worker)


@pytest.fixture
def play(stage: Stage, network: Network) -> Play:
    """Nothing has begun."""
    return Play(stage, network)


def is_over(prober: Prober) -> bool:
    """Wait for the probes under way; whether there were any."""
    probes = list(prober._probes.values())
    for probe in probes:
        probe.join(10)
        assert not probe.is_alive()
    return bool(probes)


def test_the_third_failure_in_a_row_sets_a_server_aside(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """Of whatever jobs; the time is that of the first, the reason that of the last, and it is said once."""
    caplog.set_level(logging.INFO)
    servers = play.stage.store.servers
    first, is_new = servers.failed("s2", "s2: Connection refused")
    assert (first.failures, first.is_set_aside, is_new) == (1, False, False)
    assert not servers.failed("s2", "s2: Connection refused")[0].is_set_aside
    assert servers.set_aside() == ()
    play.network.loses("s2")
    play.begins(*many_moves(2))
    play.deliver()
    (trouble,) = servers.set_aside()
    assert (trouble.remote, trouble.failures, trouble.since) == ("s2", 3, first.since)
    assert caplog.text.count("server.set_aside remote=s2") == 1
    assert servers.failed("s2", "s2: no answer in time")[0].reason == "s2: no answer in time"
    assert servers.failed("s1", "s1: Connection refused")[0].failures == 1, "each server for itself"


def test_a_server_that_only_says_that_it_cannot_is_set_aside_too(play: Play) -> None:
    """A daemon that shuts down or starts answers every request by 503."""
    play.network.down["s2"] = ServerBusy("s2: LXD is shutting down", server="s2")
    play.begins(a_move())
    play.deliver()
    play.look_again(2)
    assert [trouble.remote for trouble in play.stage.store.servers.set_aside()] == ["s2"]


def test_an_answer_in_between_begins_the_count_anew(play: Play) -> None:
    """Any answer to any job: the server is not away, its requests only fail now and then."""
    servers = play.stage.store.servers
    play.begins(a_move())
    for _ in range(2):
        servers.failed("s2", "s2: Connection refused")
    play.deliver()
    assert play.jobs()[0].state is State.DONE
    assert servers.troubles() == {}


def test_an_answer_from_the_other_server_is_none_from_this_one(play: Play) -> None:
    """s1 answers in every step; s2 fails in a row all the same."""
    play.network.loses("s2")
    play.begins(a_move())
    play.deliver()
    play.look_again(2)
    assert [trouble.remote for trouble in play.stage.store.servers.set_aside()] == ["s2"]


def test_failures_long_ago_are_no_row(play: Play, redis_client: "Redis", keys: Keys) -> None:
    """A server that nobody asked meanwhile begins anew."""
    servers = play.stage.store.servers
    for _ in range(2):
        servers.failed("s2", "s2: Connection refused")
    written = redis_client.hget(keys.troubles, "s2")
    aged = _aged(cast("bytes", written), timedelta(minutes=4))
    redis_client.hset(keys.troubles, "s2", aged)
    assert servers.failed("s2", "s2: Connection refused")[0].failures == 1


def _aged(packed: bytes, by: timedelta) -> bytes:
    fields = msgpack.unpackb(packed)
    fields["last"] -= int(by.total_seconds() * 1000)
    return cast("bytes", msgpack.packb(fields))


def test_its_jobs_wait_without_an_attempt_and_without_a_knock(play: Play) -> None:
    """Three have failed once; after that nobody asks, however often the jobs look."""
    play.network.loses("s2")
    play.begins(*many_moves(6))
    play.deliver()
    knocks = play.network.asked.count("s2")
    attempts = [job.total_attempts for job in play.jobs()]
    assert (knocks, sum(attempts)) == (3, 3)
    play.look_again(5)
    assert play.network.asked.count("s2") == knocks
    assert [job.total_attempts for job in play.jobs()] == attempts
    for job in play.jobs():
        assert job.state is State.WAITING
        assert AWAY.fullmatch(job.blocked_on)


def test_one_probe_brings_it_back_and_all_its_jobs_are_due_at_once(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those that failed on it before it was set aside long delays ahead; no clock is moved."""
    caplog.set_level(logging.INFO)
    play.network.loses("s2")
    play.begins(*many_moves(6))
    play.deliver()
    play.look_again()
    play.network.down.clear()
    play.deliver()
    assert not any(job.has_ended for job in play.jobs())
    asked = play.network.asked.count("s2")
    play.prober().probe("s2")
    assert play.network.asked.count("s2") == asked + 1
    assert "server.back remote=s2" in caplog.text
    play.deliver()
    assert {job.state for job in play.jobs()} == {State.DONE}
    assert play.stage.store.servers.troubles() == {}


def test_a_probe_that_fails_changes_nothing_but_the_reason(play: Play) -> None:
    """Whether the server is away or on its way up; the time of the first failure stays."""
    servers = play.stage.store.servers
    for _ in range(3):
        servers.failed("s2", "s2: Connection refused")
    (before,) = servers.set_aside()
    for error in (ServerUnreachable("s2: no answer in time", server="s2"), ServerBusy("s2: not ready")):
        play.network.down["s2"] = error
        play.prober().probe("s2")
        (after,) = servers.set_aside()
        assert (after.since, after.reason) == (before.since, error.message)


def test_a_refusal_is_not_waited_for(play: Play) -> None:
    """Our certificate is not trusted any more: that is for a person, and each job says so."""
    servers = play.stage.store.servers
    for _ in range(3):
        servers.failed("s2", "s2: Connection refused")
    play.begins(a_move())
    play.deliver()
    play.network.down["s2"] = NotTrusted("s2: shows another certificate than the one we trust")
    play.prober().probe("s2")
    play.deliver()
    (job,) = play.jobs()
    assert job.state is State.PARKED
    assert job.error
    assert job.error.code == "not_trusted"
    assert servers.troubles() == {}


def test_of_two_workers_one_probes(play: Play, redis_client: "Redis", keys: Keys) -> None:
    """At most once a second, for as long as it lives; when it does no more, the other one does."""
    for _ in range(3):
        play.stage.store.servers.failed("s2", "s2: Connection refused")
    play.network.loses("s2")
    one, two = play.prober("one"), play.prober("two")
    one.tend()
    two.tend()
    assert is_over(one)
    assert not is_over(two)
    one.tend()
    assert play.network.asked == ["s2"]
    one._asked["s2"] -= 1
    one.tend()
    assert is_over(one)
    assert play.network.asked == ["s2", "s2"]
    left = redis_client.pttl(keys.prober("s2"))
    assert 0 < left <= 3000, "a dead worker's lease ends soon"
    redis_client.delete(keys.prober("s2"))
    two.tend()
    assert is_over(two)
    one._asked["s2"] -= 1
    one.tend()
    assert play.network.asked == ["s2"] * 3


def test_a_worker_that_stops_in_order_leaves_its_probes_to_others(play: Play) -> None:
    """At once, and only its own."""
    for _ in range(3):
        play.stage.store.servers.failed("s2", "s2: Connection refused")
    play.network.loses("s2")
    one, two = play.prober("one"), play.prober("two")
    one.tend()
    assert is_over(one)
    two._asked["s2"] = 0.0
    two.give_up()
    assert not play.stage.store.servers.take_probe("s2", "two", timedelta(seconds=3))
    one.give_up()
    two._asked.clear()
    two.tend()
    assert is_over(two)


def test_jobs_of_other_servers_go_on(play: Play) -> None:
    """Even if all permits of the common source were held by, or promised to, jobs of the one that is away."""
    moves = [a_move(f"c{n}", target="s2" if n < 6 else "s3") for n in range(9)]
    play.loses_in("full_pass", "s2")
    play.begins(*moves, limits=Limits(per_source=1, per_target=1, cutovers=1))
    play.deliver()
    play.look_again(1)
    play.deliver()
    for job in play.jobs():
        assert job.state is (State.DONE if job.move.target == "s3" else State.WAITING)


def test_a_job_that_is_called_for_a_permit_and_stands_aside_calls_the_next(play: Play) -> None:
    """No delay has to pass: with the permit that the last job gives back, a job of another server goes on."""
    waits = [lambda _: Outcome.wait("the pass", retry_in=timedelta(hours=1))]
    play.stage.steps.parts["full_pass"] = [*waits, *[play.asks] * FOREVER]
    moves = [a_move("c0", target="s3"), *many_moves(3), a_move("c4", target="s3")]
    play.begins(*moves, limits=Limits(per_source=1, per_target=1))
    play.deliver()
    assert [job.blocked_on for job in play.jobs()[1:]] == ["a transfer slot on server s1"] * 4
    for _ in range(3):
        play.stage.store.servers.failed("s2", "s2: Connection refused")
    play.network.loses("s2")
    play.stage.wire.let_pass("p1-1")
    play.deliver()
    assert [job.state for job in play.jobs()] == [State.DONE, *[State.WAITING] * 3, State.DONE]


def test_an_instance_that_is_down_is_given_back_though_nobody_asks_its_target(play: Play) -> None:
    """As after any fault that lasts: its source runs meanwhile. It is due just then, and goes on when s2 is back."""
    play.loses_in("final_pass", "s2")
    play.begins(a_move())
    play.deliver()
    play.look_again(3)
    (job,) = play.jobs()
    assert (job.state, job.step, job.is_down) == (State.WAITING, "final_pass", True)
    assert AWAY.fullmatch(job.blocked_on)
    due = play.stage.wire.due_in_seconds(job.id)
    assert due is not None
    assert 29 < due < 31
    attempts, knocks = job.total_attempts, play.network.asked.count("s2")

    play.stage.clock.advance(GIVE_BACK_AFTER + timedelta(seconds=1))
    play.look_again()
    (job,) = play.jobs()
    assert play.stage.steps.ran[-2:] == [step.name for step in GIVE_BACK.steps]
    assert (job.step, job.is_down, job.give_backs) == ("refresh_passes", False, 1)
    assert AWAY.fullmatch(job.blocked_on)
    assert (job.total_attempts, play.network.asked.count("s2")) == (attempts, knocks)

    play.network.down.clear()
    play.prober().probe("s2")
    play.deliver()
    assert play.jobs()[0].state is State.DONE


def test_after_the_commit_point_it_waits_for_the_target(play: Play) -> None:
    """The target is the instance now: to give it back would be wrong, however long it takes."""
    play.loses_in("start_target", "s2")
    play.begins(a_move())
    play.deliver()
    play.look_again(3)
    attempts = play.jobs()[0].total_attempts
    play.stage.clock.advance(10 * GIVE_BACK_AFTER)
    play.look_again()
    (job,) = play.jobs()
    assert (job.step, job.itinerary, job.total_attempts) == ("start_target", WARM.name, attempts)
    assert AWAY.fullmatch(job.blocked_on)


def test_an_instance_whose_source_is_away_waits_for_it_on_the_way_back(play: Play) -> None:
    """Nothing else can be done; when the source is back, it is started first."""
    play.loses_in("final_pass", "s1")
    play.begins(a_move())
    play.deliver()
    play.look_again(3)
    attempts = play.jobs()[0].total_attempts
    play.stage.clock.advance(GIVE_BACK_AFTER + timedelta(seconds=1))
    play.look_again(2)
    (job,) = play.jobs()
    assert (job.step, job.state, job.total_attempts) == ("cancel_pass", State.WAITING, attempts)
    assert job.blocked_on.startswith("server s1 unreachable since ")
    play.network.down.clear()
    play.prober().probe("s1")
    play.deliver()
    assert play.jobs()[0].state is State.DONE


def test_a_cold_move_is_given_back_too(play: Play) -> None:
    """Its instance is down for the whole copy."""
    play.loses_in("full_pass", "s2")
    play.begins(a_move(method=Method.COLD))
    play.deliver()
    play.look_again(3)
    play.stage.clock.advance(GIVE_BACK_AFTER + timedelta(seconds=1))
    play.look_again()
    (job,) = play.jobs()
    assert (job.step, job.is_down, job.give_backs) == ("stop_source", False, 1)


def test_a_cancel_is_obeyed_as_far_as_the_source_goes(play: Play) -> None:
    """The instance runs again at once; what is on the target goes when the target is back."""
    play.loses_in("final_pass", "s2")
    play.begins(a_move())
    play.deliver()
    play.look_again(3)
    control.cancel("p1", play.stage.store)
    play.deliver()
    (job,) = play.jobs()
    assert (job.itinerary, job.step) == (UNDO.name, "discard_copy")
    assert AWAY.fullmatch(job.blocked_on)
    play.network.down.clear()
    play.prober().probe("s2")
    play.deliver()
    assert play.jobs()[0].state is State.CANCELLED


def test_a_job_of_two_servers_that_are_away_waits_for_both(play: Play) -> None:
    """And says so; one that comes back first does not let it knock at the other."""
    for remote in ("s1", "s2"):
        for _ in range(3):
            play.stage.store.servers.failed(remote, f"{remote}: Connection refused")
    play.network.loses("s2")
    play.begins(a_move())
    play.deliver()
    (job,) = play.jobs()
    assert re.fullmatch(r"server s1 unreachable since .* UTC, server s2 unreachable since .* UTC", job.blocked_on)
    play.prober().probe("s1")
    play.deliver()
    (job,) = play.jobs()
    assert AWAY.fullmatch(job.blocked_on)
    assert "s2" not in play.network.asked


def test_a_server_that_comes_back_before_its_job_waits_for_it_wakes_it(play: Play) -> None:
    """Between a worker's look and its checkpoint: nobody else would tell the job."""
    play.begins(a_move())
    play.stage.wire.take()
    store = play.stage.store
    claim = store.claim("p1-1", "me")
    assert claim
    waiting = replace(claim.job, state=State.WAITING, blocked_on="server s2")
    store.commit(claim, waiting, delay=timedelta(hours=1), servers=["s2"])
    assert play.stage.wire.wake_ups() == [("preflight", "p1-1")]


def test_a_permanent_error_of_one_job_stops_no_other(play: Play) -> None:
    """It is not the server's."""
    refused: Part = _raises(NotTrusted("s2: not authorized"))
    play.stage.steps.parts["check_target"] = [refused] * 3 + [play.asks] * FOREVER
    play.begins(*many_moves(6))
    play.deliver()
    assert sorted(job.state for job in play.jobs()) == [State.DONE] * 3 + [State.PARKED] * 3
    assert play.stage.store.servers.troubles() == {}


def test_a_member_that_is_down_is_not_the_server_that_says_so(play: Play) -> None:
    """Any member of a cluster answers for it, so a probe would call it well: its jobs try again, each for itself."""
    away = ServerUnreachable("s2: Missing event connection with target cluster member")
    play.stage.steps.parts["check_target"] = [_raises(away)] * 6 + [play.asks] * FOREVER
    play.begins(*many_moves(6))
    play.deliver()
    assert play.stage.store.servers.troubles() == {}
    play.look_again()
    assert {job.state for job in play.jobs()} == {State.DONE}


def _raises(error: HerderError) -> Part:
    def part(_: Context) -> Outcome:
        raise error

    return part


def test_people_are_told_which_server_is_set_aside(
    play: Play, monkeypatch: pytest.MonkeyPatch, redis_url: str, keys: Keys
) -> None:
    """In the list of plans and in the report, for people and for programs; not for plans that do not need it."""
    monkeypatch.setenv("HERDER_REDIS_URL", redis_url)
    monkeypatch.setenv("HERDER_NAMESPACE", keys.namespace)
    monkeypatch.setenv("COLUMNS", "200")
    play.begins(*many_moves(3))
    play.network.loses("s2")
    play.deliver()
    play.stage.store.servers.failed("s9", "s9: Connection refused")
    sentence = (
        r"server s2 is set aside: unreachable since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(s2: Connection refused\)"
    )
    for command in (("status",), ("report", "p1")):
        assert len(re.findall(sentence, CliRunner().invoke(app, command).stdout)) == 1
    (told,) = json.loads(CliRunner().invoke(app, ["report", "p1", "--json"]).stdout)["set_aside"]
    assert (told["server"], told["reason"]) == ("s2", "s2: Connection refused")
    assert told["since"]


def test_who_follows_a_plan_is_told_when_a_server_goes_and_comes(
    play: Play, monkeypatch: pytest.MonkeyPatch, redis_url: str, keys: Keys
) -> None:
    """One line each."""
    monkeypatch.setenv("HERDER_REDIS_URL", redis_url)
    monkeypatch.setenv("HERDER_NAMESPACE", keys.namespace)
    monkeypatch.setenv("COLUMNS", "200")
    play.begins(a_move())
    for _ in range(3):
        play.stage.store.servers.failed("s2", "s2: Connection refused")
    meanwhile = iter([lambda: play.prober().probe("s2"), play.deliver])
    monkeypatch.setattr("producer.cli.flow.time.sleep", lambda _: next(meanwhile)())
    told = CliRunner().invoke(app, ["watch", "p1"])
    assert told.exit_code == 0, told.stdout
    lines = [line for line in told.stdout.splitlines() if line.startswith("server ")]
    assert len(lines) == 2
    assert lines[0].startswith("server s2 is set aside: unreachable since ")
    assert lines[1] == "server s2 is back"
