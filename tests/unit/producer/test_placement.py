"""Placement: who goes where, and the reason for every choice and refusal."""

import pytest

from common.domain.fleet import Pool, Server
from common.domain.instance import Instance
from common.domain.plan import Method, Move, Overrides, Policy, Refusal
from producer.placement import Placement
from tests.builders import GIB, a_member, a_move, a_server, an_instance


def a_target(remote: str, *, free: int = 50) -> Server:
    """A server with so many GiB free in its pool of 100 GiB."""
    pool = Pool(name="default", driver="btrfs", total=100 * GIB, used=(100 - free) * GIB)
    return a_server(remote, pools={"default": pool})


def place(placement: Placement, instance: Instance, **changes: object) -> Move | Refusal:
    """What the placement decides about an instance."""
    placed, _ = placement.place(instance, a_move(instance.name, target="", **changes))
    return placed


def move_of(placed: Move | Refusal) -> Move:
    """The move, if it is one."""
    assert isinstance(placed, Move), placed
    return placed


def refusal_of(placed: Move | Refusal) -> Refusal:
    """The refusal, if it is one."""
    assert isinstance(placed, Refusal), placed
    return placed


def test_one_target_gets_all() -> None:
    """The reason says that there was no choice; the pool that the copy will use is written down."""
    move = move_of(place(Placement(a_server("s1"), [a_target("s2")]), an_instance()))
    assert (move.target, move.pool, move.reason) == ("s2", "default", "the only target")


def test_instances_are_spread_over_the_targets() -> None:
    """The next instance goes to the target that got the fewest."""
    placement = Placement(a_server("s1"), [a_target("s2"), a_target("s3"), a_target("s4")])
    placed = [move_of(place(placement, an_instance(f"c{n}"))).target for n in range(6)]
    assert sorted(placed[:3]) == sorted(placed[3:]) == ["s2", "s3", "s4"]


def test_among_equals_the_one_with_the_most_room_comes_first() -> None:
    """The reason tells how much room that was, and in which pool."""
    placement = Placement(a_server("s1"), [a_target("s2", free=10), a_target("s3", free=80)])
    move = move_of(place(placement, an_instance()))
    assert move.target == "s3"
    assert move.reason == "fewest instances of this plan so far, 80.0 GiB free in pool default"


def test_with_nothing_to_choose_by_the_name_decides() -> None:
    """The same request gives the same plan again."""
    targets = [a_target("s3"), a_target("s2")]
    assert move_of(place(Placement(a_server("s1"), targets), an_instance())).target == "s2"


def test_a_target_that_cannot_take_it_is_passed_over() -> None:
    """The reason says what stood in the way of the others."""
    placement = Placement(a_server("s1"), [a_target("s2"), a_server("s3", pools={})])
    move = move_of(place(placement, an_instance()))
    assert move.target == "s2"
    assert move.reason == "the only one that can take it (s3: s3 has no pool default; it has none)"


def test_an_instance_that_no_target_can_take_is_refused_with_all_reasons() -> None:
    """Each finding once, those of every target."""
    placement = Placement(a_server("s1"), [a_target("s2"), a_target("s3")])
    refusal = refusal_of(place(placement, an_instance(status="Frozen", profiles=("ssd",))))
    assert (refusal.instance, refusal.source, refusal.project) == ("web1", "s1", "default")
    assert [finding.message for finding in refusal.findings] == [
        "its status is Frozen",
        "s2 has no profile ssd",
        "s3 has no profile ssd",
    ]


def test_a_refused_instance_takes_no_place() -> None:
    """The next one still finds all targets equal."""
    placement = Placement(a_server("s1"), [a_target("s2"), a_target("s3")])
    refusal_of(place(placement, an_instance("frozen", status="Frozen")))
    placed = [move_of(place(placement, an_instance(f"c{n}"))).target for n in range(2)]
    assert sorted(placed) == ["s2", "s3"]


def test_two_instances_of_a_plan_cannot_take_the_same_name() -> None:
    """It may happen when projects are merged: the second one is refused, and told who was first."""
    placement = Placement(a_server("s1"), [a_target("s2")])
    move_of(place(placement, an_instance("web1", project="a"), target_project="default"))
    refusal = refusal_of(place(placement, an_instance("web1", project="b"), target_project="default"))
    (finding,) = refusal.findings
    assert finding.code == "name_taken"
    assert finding.message == "web1 of this plan takes the name web1 on s2"


def test_a_name_clash_is_evaded_if_there_is_another_target() -> None:
    """On every server the names are its own."""
    placement = Placement(a_server("s1"), [a_target("s2"), a_target("s3")])
    targets = {
        move_of(place(placement, an_instance("web1", project=project), target_project="default")).target
        for project in ("a", "b")
    }
    assert targets == {"s2", "s3"}


@pytest.mark.parametrize("free", [10, 90])
def test_the_room_that_counts_is_that_of_the_wanted_pool(free: int) -> None:
    """With --storage another pool is looked at than that of the source."""

    def with_fast(remote: str, gib: int) -> Server:
        fast = Pool(name="fast", driver="btrfs", total=100 * GIB, used=(100 - gib) * GIB)
        return a_server(remote, pools={"fast": fast, "default": Pool(name="default", driver="dir")})

    placement = Placement(a_server("s1"), [with_fast("s2", free), with_fast("s3", 50)])
    move = move_of(place(placement, an_instance(), overrides=Overrides(storage="fast")))
    assert (move.target, move.pool) == ("s2" if free > 50 else "s3", "fast")


@pytest.mark.parametrize("there", ["btrfs", "dir", "zfs"])
@pytest.mark.parametrize("here", ["btrfs", "dir"])
def test_what_runs_moves_warm_only_where_no_change_can_be_left_out(here: str, there: str) -> None:
    """LXD's rsync overlooks a change within the second of the one before it, if the size stays."""

    def on(remote: str, driver: str) -> Server:
        return a_server(remote, pools={"default": Pool(name="default", driver=driver)})

    placement = Placement(on("s1", here), [on("s2", there)])
    move = move_of(place(placement, an_instance()))
    sends = here == there == "btrfs"
    assert (move.method, "not warm" in move.reason) == ((Method.WARM, False) if sends else (Method.COLD, True))

    placed, warned = placement.place(an_instance("web2"), a_move("web2", target="", policy=Policy(method=Method.WARM)))
    assert move_of(placed).method is Method.WARM
    assert [finding.code for finding in warned] == ([] if sends else ["rsync"])


def test_a_virtual_machine_changes_its_member_cold_and_the_reason_is_told() -> None:
    machine = an_instance(type="virtual-machine", location="c2")
    placement = Placement(a_member("c2"), [a_member("c3")])
    move = move_of(place(placement, machine, source_member="c2", method=Method.COLD))
    assert move.method is Method.COLD
    assert "not stateful: it is a virtual machine, which moves cold within a cluster" in move.reason
