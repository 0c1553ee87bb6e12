"""What a checker reads: content that tells old from new, intervals of running, and the time that it took."""

import pytest

from tests.contract.sites import begin_pull, in_process
from tests.lab.pulls import done
from tests.simulator import MIB, Fleet, Guest, Wire, daemon
from tests.simulator.adapter import client_of


@pytest.fixture
def fleet() -> Fleet:
    """Two servers with btrfs, one with dir, and an instance that writes ten times a second."""
    made = Fleet()
    made.add("s1", bandwidth=100e6)
    made.add("s2", bandwidth=100e6)
    made.add("d1", driver="dir", bandwidth=100e6)
    made.launch("s1", "c1", size=100 * MIB, guest=Guest(writes_per_second=10))
    return made


def tokens(fleet: Fleet, server: str, *kinds: str) -> list[str]:
    return [entry.detail["token"] for entry in fleet.servers[server].history.of("c1", *kinds)]


def test_a_copy_carries_the_version_of_its_moment_and_the_final_pass_the_last_one(fleet: Fleet) -> None:
    s1, s2 = in_process(fleet, "s1"), in_process(fleet, "s2")
    begin_pull(s1, s2, "c1").succeed()
    fleet.clock.wait(lambda: False, 3)
    done(s1.client, s1.client.stop("c1", grace_seconds=5))
    (last,) = tokens(fleet, "s1", "stopped")
    assert tokens(fleet, "s2", "received") != [last]
    begin_pull(s1, s2, "c1", refresh=True).succeed()
    assert tokens(fleet, "s2", "received")[-1] == last
    done(s2.client, s2.client.start("c1"))
    assert tokens(fleet, "s2", "started") == [last]
    assert {entry.generation for entry in fleet.history() if entry.kind in ("started", "stopped")} == {
        fleet.servers["s1"].instances["default", "c1"].data.token.split(":")[0]  # type: ignore[union-attr]
    }


def test_what_runs_again_is_not_what_it_was(fleet: Fleet) -> None:
    """So a source that was started once more after its last pass shows as lost data."""
    client = client_of(fleet, "s1")
    done(client, client.force_stop("c1"))
    done(client, client.start("c1"))
    done(client, client.force_stop("c1"))
    first, second = tokens(fleet, "s1", "stopped")
    assert first != second


def test_an_interrupted_refresh_on_dir_leaves_a_mixture(fleet: Fleet) -> None:
    s1, d1 = in_process(fleet, "s1"), in_process(fleet, "d1")
    begin_pull(s1, d1, "c1").succeed()
    old = d1.content("c1")
    s1.write("c1", mib=50)
    with Wire(fleet.servers["s1"], hold_after=10 * MIB) as wire:
        moving = begin_pull(s1, d1, "c1", wire=wire, refresh=True)
        wire.wait_held()
        wire.cut()
        moving.ended()
    assert d1.content("c1") not in (old, s1.content("c1"))


def test_a_target_killed_in_a_refresh_keeps_a_phantom_of_the_new_snapshot(fleet: Fleet) -> None:
    s1, s2 = in_process(fleet, "s1"), in_process(fleet, "s2")
    done(s1.client, s1.client.create_snapshot("c1", "a"))
    begin_pull(s1, s2, "c1").succeed()
    s1.write("c1", mib=50)
    done(s1.client, s1.client.create_snapshot("c1", "b"))
    with Wire(fleet.servers["s1"], hold_after=10 * MIB) as wire:
        begin_pull(s1, s2, "c1", wire=wire, refresh=True)
        wire.wait_held()
        daemon.restart(fleet.servers["s2"])
    copy = fleet.servers["s2"].instances["default", "c1"]
    assert (copy.snapshots["a"].data is None, copy.snapshots["b"].data is None) == (False, True)


def test_snapshots_of_an_earlier_move_cannot_be_refreshed(fleet: Fleet) -> None:
    s1, s2 = in_process(fleet, "s1"), in_process(fleet, "s2")
    done(s1.client, s1.client.create_snapshot("c1", "old"))
    done(s1.client, s1.client.force_stop("c1"))
    begin_pull(s1, s2, "c1").succeed()
    done(s1.client, s1.client.delete("c1"))
    begin_pull(s2, s1, "c1").succeed()
    done(s2.client, s2.client.create_snapshot("c1", "new"))
    _, target = begin_pull(s2, s1, "c1", refresh=True).ended()
    assert "cannot find parent subvolume" in target.error


def test_transfers_share_the_bandwidth(fleet: Fleet) -> None:
    """Two of 100 MiB through 100 MB/s take as long as one of 200 MiB."""
    s1, s2 = in_process(fleet, "s1"), in_process(fleet, "s2")
    fleet.launch("s1", "c2", size=100 * MIB)
    began = fleet.clock.now()
    both = [begin_pull(s1, s2, name) for name in ("c1", "c2")]
    for each in both:
        each.succeed()
    assert fleet.clock.now() - began == pytest.approx(200 * MIB / 100e6, rel=0.15)
