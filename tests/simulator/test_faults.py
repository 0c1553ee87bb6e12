"""Faults come when they were asked for, show to herder's client as real ones do, and are counted."""

import pytest

from common.domain.errors import HerderError, NotTrusted, ServerBusy, ServerUnreachable
from common.lxd.client import LxdClient
from tests.contract.sites import begin_pull, in_process
from tests.lab.pulls import Pull, done, finished
from tests.simulator import MIB, Fault, Fleet, Kind
from tests.simulator.adapter import client_of

CREATE = r"POST /1\.0/instances/c1/snapshots$"


@pytest.fixture
def fleet() -> Fleet:
    """Two servers, and a running instance of 100 MiB on the first."""
    made = Fleet()
    made.add("s1")
    made.add("s2")
    made.launch("s1", "c1", size=100 * MIB)
    return made


@pytest.fixture(params=[False, True], ids=["requests", "direct"])
def client(request: pytest.FixtureRequest, fleet: Fleet) -> LxdClient:
    return client_of(fleet, "s1", direct=request.param)


def pull(fleet: Fleet) -> Pull:
    return begin_pull(in_process(fleet, "s1"), in_process(fleet, "s2"), "c1", config={"user.herder.state": "receiving"})


@pytest.mark.parametrize(
    ("kind", "error", "has_effect"),
    [
        (Kind.REFUSE, ServerUnreachable, False),
        (Kind.BUSY, ServerBusy, False),
        (Kind.CUT_BEFORE, ServerUnreachable, False),
        (Kind.CUT_AFTER, ServerUnreachable, True),
        (Kind.HALF_RESPONSE, ServerUnreachable, True),
        (Kind.SILENT_AFTER, ServerUnreachable, True),
    ],
)
def test_a_broken_request_has_an_effect_or_none(
    fleet: Fleet, client: LxdClient, kind: Kind, error: type[HerderError], has_effect: bool
) -> None:
    fleet.inject(Fault(kind=kind, server="s1", request=CREATE, nth=2))
    done(client, client.create_snapshot("c1", "a"))
    with pytest.raises(error):
        client.create_snapshot("c1", "b")
    fleet.clock.wait(lambda: False, 1)
    assert [each.name for each in client.snapshots("c1")] == (["a", "b"] if has_effect else ["a"])
    assert fleet.faults.happened == {kind.value: 1}
    done(client, client.create_snapshot("c1", "c"))


def test_a_delayed_request_arrives_late(fleet: Fleet, client: LxdClient) -> None:
    fleet.inject(Fault(kind=Kind.DELAY, server="s1", request="GET", seconds=7))
    began = fleet.clock.now()
    client.instance("c1")
    assert fleet.clock.now() - began >= 7


def test_a_killed_daemon_is_back_after_its_time_and_its_containers_have_run_on(fleet: Fleet, client: LxdClient) -> None:
    pid = client.info().pid
    fleet.inject(Fault(kind=Kind.KILL, server="s1", request=CREATE, after_effect=True, seconds=2))
    client.create_snapshot("c1", "a")
    with pytest.raises(ServerUnreachable, match="refused"):
        client.transport.request("PATCH", "/1.0/instances/c1", json={})
    fleet.clock.wait(lambda: False, 2)
    assert client.info().pid != pid
    assert client.instance("c1").is_running
    assert client.snapshots("c1") == ()
    assert [entry.kind for entry in fleet.servers["s1"].history][-3:] == ["fault", "daemon-killed", "daemon-started"]


def test_the_guard_keeps_an_instance_from_starting_with_its_daemon(fleet: Fleet, client: LxdClient) -> None:
    """As it does with real ones (tests/lab/test_lxd_facts.py, where it takes 10 s)."""
    guard = {"type": "unix-char", "source": "/dev/herder-guard", "path": "/dev/herder-guard"}
    fleet.launch("s1", "guarded", runs=False, config={"boot.autostart": "true"}, devices={"herder-guard": guard})
    fleet.launch("s1", "free", runs=False, config={"boot.autostart": "true"})
    fleet.inject(Fault(kind=Kind.KILL, server="s1", seconds=1))
    fleet.clock.wait(lambda: False, 20)
    assert (client.instance("guarded").status, client.instance("free").status) == ("Stopped", "Running")


def test_a_frozen_daemon_answers_when_it_is_thawed(fleet: Fleet, client: LxdClient) -> None:
    fleet.inject(Fault(kind=Kind.FREEZE, server="s1", seconds=60))
    with pytest.raises(ServerUnreachable, match="no answer in time"):
        client.transport.request("PATCH", "/1.0/instances/c1", json={})
    assert client.instance("c1").is_running
    assert fleet.clock.now() >= 60


def test_a_rotated_certificate_is_not_trusted(fleet: Fleet, client: LxdClient) -> None:
    fleet.inject(Fault(kind=Kind.ROTATE, server="s1"))
    with pytest.raises(NotTrusted, match="another certificate"):
        client.info()


def test_operations_that_have_ended_are_forgotten_on_demand(fleet: Fleet, client: LxdClient) -> None:
    operation = client.create_snapshot("c1", "a")
    done(client, operation)
    fleet.inject(Fault(kind=Kind.FORGET, server="s1"))
    assert client.operation(operation) is None


def test_a_stop_that_hangs_fails_after_its_grace_and_a_start_fails_as_often_as_was_asked(
    fleet: Fleet, client: LxdClient
) -> None:
    fleet.inject(Fault(kind=Kind.STOP_HANGS, server="s1", instance="c1", seconds=5))
    assert "Failed shutting down" in finished(client, client.stop("c1", grace_seconds=2)).error
    fleet.clock.wait(lambda: False, 5)
    done(client, client.stop("c1", grace_seconds=2))
    fleet.inject(Fault(kind=Kind.START_FAILS, server="s1", instance="c1", times=1))
    assert not finished(client, client.start("c1")).succeeded
    done(client, client.start("c1"))


def test_a_disk_that_is_full_at_a_byte_breaks_the_transfer_and_leaves_nothing(fleet: Fleet) -> None:
    fleet.inject(Fault(kind=Kind.DISK_FULL, server="s2", at_bytes=10 * MIB))
    source, target = pull(fleet).ended()
    assert "No space left on device" in target.error
    assert not source.succeeded
    assert fleet.servers["s2"].instances == {}


def test_a_pool_that_is_too_small_breaks_the_transfer_when_it_is_full(fleet: Fleet) -> None:
    pool = fleet.servers["s2"].pools["default"]
    pool.other = pool.size - 30 * MIB
    _, target = pull(fleet).ended()
    assert "No space left on device" in target.error


@pytest.mark.parametrize("at_bytes", [1, 50 * MIB, 10**12])
def test_a_target_killed_at_a_byte_leaves_a_wreck_without_data(fleet: Fleet, at_bytes: int) -> None:
    fleet.inject(Fault(kind=Kind.KILL, server="s2", at_bytes=at_bytes, seconds=1))
    moving = pull(fleet)
    assert not finished(moving.source, moving.offered).succeeded
    fleet.clock.wait(lambda: False, 1)
    (wreck,) = fleet.servers["s2"].instances.values()
    assert (wreck.data, wreck.config["user.herder.state"]) == (None, "receiving")


def test_a_source_killed_at_a_byte_leaves_nothing_on_the_target(fleet: Fleet) -> None:
    fleet.inject(Fault(kind=Kind.KILL, server="s1", at_bytes=5 * MIB, seconds=1))
    moving = pull(fleet)
    assert "1006" in finished(moving.target, moving.received).error
    assert fleet.servers["s2"].instances == {}


def test_a_target_that_hangs_is_given_up_after_two_minutes(fleet: Fleet) -> None:
    fleet.inject(Fault(kind=Kind.FREEZE, server="s2", at_bytes=5 * MIB, seconds=300))
    moving = pull(fleet)
    ended = moving.source.wait(moving.offered, timeout_seconds=200)
    assert ended
    assert "connection timed out" in ended.error


def test_a_fault_of_requests_needs_a_request(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="needs a request"):
        fleet.inject(Fault(kind=Kind.CUT_AFTER, server="s1"))
