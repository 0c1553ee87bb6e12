"""The planner: from a request and a fleet to a plan, and what has changed since."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.errors import InputError
from common.domain.fleet import Member, Pool, Server
from common.domain.instance import COPY_OF, HOME, Instance
from common.domain.plan import Method, Mode, NameMap, Overrides, Own, Plan, Policy, Request, Selection
from producer.planner import drift, make_plan, select
from tests.builders import (
    GIB,
    NOW,
    ROOT_DISK,
    a_fleet,
    a_member,
    a_request,
    a_retired_instance,
    a_server,
    a_server_info,
    an_instance,
)


def plan_of(request: Request, *instances: Instance) -> Plan:
    """The plan for these instances on ``s1``."""
    return make_plan(request, a_fleet(a_server("s1", *instances), a_server("s2")), plan_id="p1")


def selected(*instances: Instance, **selection: Any) -> list[str]:
    """The names of those of ``s1`` that the selection means."""
    return [i.name for i in select(instances, Selection(source="s1", **selection))]


def with_priority(name: str, priority: str) -> Instance:
    """An instance whose profile sets boot.stop.priority."""
    return an_instance(name, expanded_config={"boot.stop.priority": priority})


def test_a_plan_says_who_goes_where_and_when_it_was_made() -> None:
    """Its time is the moment at which the servers were seen."""
    plan = plan_of(a_request(), an_instance("web1"))
    (move,) = plan.moves
    assert (plan.id, plan.name, plan.created_at) == ("p1", "empty s1", NOW)
    assert (move.instance, move.source, move.target, move.name) == ("web1", "s1", "s2", "web1")
    assert move.identity == "uuid-of-web1"
    assert plan.fingerprint


def test_a_map_that_fits_nothing_is_told() -> None:
    """Names are easily mistyped, and the instance would keep what it has."""
    nic = {"type": "nic", "network": "br0"}
    devices = {"eth0": nic, "root": {"type": "disk", "path": "/", "pool": "default"}}
    instance = an_instance(profiles=("default",), devices=devices, expanded_devices=devices)
    fits = NameMap(profiles={"default": "a"}, networks={"br0": "a"}, pools={"default": "a"}, projects={"default": "a"})
    assert plan_of(replace(a_request(), overrides=Overrides(map=fits)), instance).warnings == ()
    slips = NameMap(profiles={"prod": "a"}, networks={"lan": "a"}, pools={"ssd": "a"}, projects={"shop": "a"})
    told = plan_of(replace(a_request(), overrides=Overrides(map=slips)), instance).warnings
    assert [warning.partition(":")[0].partition(" among")[0] for warning in told] == [
        f"no selected instance has {what}" for what in ("profile prod", "network lan", "pool ssd", "project shop")
    ]


def test_each_project_goes_where_the_map_says_unless_all_go_into_one() -> None:
    """`--target-project` is for all."""
    mapped = replace(a_request(), overrides=Overrides(map=NameMap(projects={"shop": "store"})))
    assert [mapped.project_on_target(name) for name in ("shop", "default")] == ["store", "default"]
    assert replace(mapped, target_project="one").project_on_target("shop") == "one"


def test_one_instance_can_have_what_the_others_do_not() -> None:
    """Its own overrides come before those of all, key by key; everybody else has those of all."""
    of_all = Overrides(config={"user.a": "1", "user.b": "1"}, devices={"eth0": {"mtu": "1500"}}, storage="ssd")
    own = Overrides(config={"user.b": "2"}, devices={"eth0": {"network": "lan"}}, profiles=(), instance_only=True)
    request = replace(a_request(), overrides=of_all, each={"web1": Own(name="shop", overrides=own)})
    assert request.overrides_of("web2") == of_all
    assert request.overrides_of("web1") == Overrides(
        config={"user.a": "1", "user.b": "2"},
        devices={"eth0": {"mtu": "1500", "network": "lan"}},
        profiles=(),
        storage="ssd",
        instance_only=True,
    )


def test_a_move_has_the_name_and_the_overrides_of_its_instance() -> None:
    """What is said of one does not reach the other."""
    each = {"web1": Own(name="shop", overrides=Overrides(config={"user.a": "1"}))}
    plan = plan_of(replace(a_request(), each=each), an_instance("web1"), an_instance("web2"))
    assert [(m.instance, m.name, dict(m.overrides.config)) for m in plan.moves] == [
        ("web1", "shop", {"user.a": "1"}),
        ("web2", "web2", {}),
    ]


def test_an_instance_of_its_own_that_is_not_selected_is_an_error() -> None:
    """A slip of the pen would be obeyed by nobody."""
    with pytest.raises(InputError, match="each: wbe1: no such instance is selected"):
        plan_of(replace(a_request(), each={"wbe1": Own(name="x")}), an_instance("web1"))


def test_an_empty_server_gives_an_empty_plan() -> None:
    """To have nothing to do is no error."""
    plan = plan_of(a_request())
    assert (plan.moves, plan.refusals) == ((), ())


def test_instances_go_in_the_order_in_which_they_shall_stop() -> None:
    """By boot.stop.priority, highest first, as a shutdown of the host does it; then by name."""
    instances = (
        an_instance("b"),
        an_instance("a"),
        with_priority("first", "10"),
        with_priority("last", "-5"),
        with_priority("second", "2"),
        with_priority("odd", "soon"),
    )
    assert selected(*instances) == ["first", "second", "a", "b", "odd", "last"]


def test_only_the_selected_project_is_meant() -> None:
    """Instances of the same name elsewhere stay."""
    here, there = an_instance("web1"), an_instance("web1", project="shop")
    source = a_server("s1", here, there, projects=("default", "shop"))
    assert select(source.instances, Selection(source="s1", project="shop")) == (there,)


@pytest.mark.parametrize(
    ("match", "chosen"),
    [
        ({"user.tier": "web"}, ["web1"]),
        ({"user.tier": "w*"}, ["web1", "worker1"]),
        ({"user.tier": "*"}, ["db1", "plain", "web1", "worker1"]),
        ({"user.tier": "?*"}, ["db1", "web1", "worker1"]),
        ({"user.tier": "w*", "user.zone": "b"}, ["worker1"]),
        ({"user.tier": "W*"}, []),
    ],
)
def test_instances_are_matched_by_patterns_on_their_config(match: dict[str, str], chosen: list[str]) -> None:
    """All patterns must match; case counts; an absent key is empty, so ``*`` means all."""
    fleet = (
        an_instance("web1", expanded_config={"user.tier": "web", "user.zone": "a"}),
        an_instance("worker1", expanded_config={"user.tier": "worker", "user.zone": "b"}),
        an_instance("db1", expanded_config={"user.tier": "db"}),
        an_instance("plain"),
    )
    assert selected(*fleet, match=match) == chosen


def test_what_an_earlier_plan_has_moved_away_is_left_out() -> None:
    """An evacuation that is repeated finds nothing to do, instead of refusing every retired source."""
    plan = plan_of(a_request(), a_retired_instance("web1"), an_instance("web2"))
    assert [move.instance for move in plan.moves] == ["web2"]
    assert plan.refusals == ()


def test_a_wreck_is_left_where_it_is_and_told() -> None:
    """What an earlier evacuation had to set aside on this server is no instance, and stops no other one's move."""
    marks = {"user.herder.job": "p1-3", "user.herder.state": "receiving"}
    wreck = a_retired_instance("web1-wreck-p1-3-1", config=marks)
    plan = plan_of(a_request(), wreck, an_instance("web2"))
    assert ([move.instance for move in plan.moves], plan.refusals) == (["web2"], ())
    assert plan.warnings[0].startswith("web1-wreck-p1-3-1 stays: it is the wreck of a broken copy")


def test_a_retired_source_that_was_brought_back_to_life_moves_again() -> None:
    """Without the guard it is an instance like any other."""
    revived = a_retired_instance("web1", devices={}, status="Running")
    assert [move.instance for move in plan_of(a_request(), revived).moves] == ["web1"]


def test_a_retired_source_that_is_named_is_refused() -> None:
    """Who names it must learn why it stays."""
    (refusal,) = plan_of(a_request("web1"), a_retired_instance("web1")).refusals
    assert [finding.code for finding in refusal.findings] == ["retired"]


@pytest.mark.parametrize(
    ("asked", "status", "decided"),
    [
        (None, "Running", Method.WARM),
        (None, "Stopped", Method.COLD),
        (Method.COLD, "Running", Method.COLD),
        (Method.WARM, "Running", Method.WARM),
        (Method.WARM, "Stopped", Method.COLD),
    ],
)
def test_the_method_is_the_wanted_one_unless_there_is_nothing_to_keep_running(
    asked: Method | None, status: str, decided: Method
) -> None:
    """Warm for what runs, cold for what is stopped, if nothing is asked for."""
    (move,) = plan_of(a_request(policy=Policy(method=asked)), an_instance(status=status)).moves
    assert move.method is decided


def test_a_move_can_get_another_name_and_another_project() -> None:
    """Both are written into the move."""
    source = a_server("s1", an_instance("web1"))
    target = a_server("s2", projects=("default", "shop"), profiles={"shop": a_server().profiles["default"]})
    target = replace(target, networks={"shop": frozenset({"lxdbr0"})})
    request = a_request("web1", rename="web2", target_project="shop")
    (move,) = make_plan(request, a_fleet(source, target), plan_id="p1").moves
    assert (move.name, move.project, move.target_project) == ("web2", "default", "shop")


@pytest.mark.parametrize("names", [(), ("web1", "web2")], ids=["all of two", "two named"])
def test_a_new_name_needs_exactly_one_instance(names: tuple[str, ...]) -> None:
    """The message says how many were selected."""
    with pytest.raises(InputError, match="a new name needs exactly one instance; 2 are selected"):
        plan_of(a_request(*names, rename="x"), an_instance("web1"), an_instance("web2"))


def test_a_new_name_for_nothing_is_refused_too() -> None:
    """The selection is empty, so there is nothing to rename."""
    with pytest.raises(InputError, match="exactly one instance; 0 are selected"):
        plan_of(a_request(rename="x"))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (a_request("web1", "web9", "web7"), "no instance web7, web9 on s1 (project default)"),
        (a_request(targets=()), "no target given"),
        (a_request(targets=("s2", "s1")), "s1 is the source and a target at once"),
        (a_request(select=Selection(source="s1", project="shop")), "s1 has no project shop"),
        (a_request(policy=Policy(method=Method.REFRESH), targets=("s2", "s3")), "a refresh needs exactly one target"),
        (a_request(policy=Policy(mode=Mode.PULL, rate=10**6)), "mode pull has no limit: LXD cannot cap"),
        (a_request(policy=Policy(mode=Mode.PUSH, rate=10**6)), "mode push has no limit: LXD cannot cap"),
    ],
    ids=[
        "unknown instances",
        "no target",
        "source as target",
        "unknown project",
        "refresh to two",
        "capped pull",
        "capped push",
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(request_: Request, words: str) -> None:
    """It names what is wrong; nothing has been decided."""
    with pytest.raises(InputError) as raised:
        plan_of(request_, an_instance("web1"))
    assert words in raised.value.message


def test_refused_instances_do_not_keep_the_others_from_moving() -> None:
    """They are in the plan, with what to do about them."""
    plan = plan_of(a_request(), an_instance("odd1", status="Error"), an_instance("web1"))
    assert [move.instance for move in plan.moves] == ["web1"]
    assert [(refusal.instance, refusal.findings[0].code) for refusal in plan.refusals] == [("odd1", "status")]


def test_the_same_request_gives_the_same_plan() -> None:
    """Planning is pure: nothing but its arguments counts."""
    instances = [an_instance(f"c{n}") for n in range(5)]
    fleet = a_fleet(a_server("s1", *instances), a_server("s2"), a_server("s3"))
    request = a_request(targets=("s2", "s3"))
    assert make_plan(request, fleet, plan_id="p1") == make_plan(request, fleet, plan_id="p1")


def drift_with(*now_on_source: Instance) -> list[str]:
    """What has changed if these are the instances now, after ``web1`` and ``db1`` were planned."""
    plan = plan_of(a_request(), an_instance("web1"), an_instance("db1"))
    return drift(plan, a_fleet(a_server("s1", *now_on_source), a_server("s2")))


def test_an_unchanged_fleet_has_not_drifted() -> None:
    """Neither has one with more instances than were planned for."""
    assert drift_with(an_instance("web1"), an_instance("db1")) == []
    assert drift_with(an_instance("web1"), an_instance("db1"), an_instance("new")) == []


@pytest.mark.parametrize(
    ("web1", "said"),
    [
        (None, "s1:web1 is gone"),
        (an_instance("web1", config={"volatile.uuid": "another"}), "s1:web1 was made anew"),
        (an_instance("web1", status="Stopped"), "the instances on s1 are not as they were at 2025-06-01 01:00 UTC"),
        (an_instance("web1", profiles=("x",)), "the instances on s1 are not as they were"),
    ],
    ids=["gone", "made anew", "stopped", "other profiles"],
)
def test_drift_is_told_in_words(web1: Instance | None, said: str) -> None:
    """As exactly as it is known."""
    present = [an_instance("db1"), *([web1] if web1 else [])]
    assert any(said in line for line in drift_with(*present))


def test_an_untrusted_source_is_not_asked_for_its_projects() -> None:
    """It tells nothing before it trusts us; the refusal says that."""
    source = Server(remote="s1", info=a_server_info("s1", trusted=False), projects=())
    assert select(source.instances, Selection(source="s1")) == ()


def test_a_copy_is_a_copy_whether_its_source_runs_or_not() -> None:
    """There is nothing to stop."""
    request = a_request(policy=Policy(method=Method.COPY))
    plan = plan_of(request, an_instance("runs"), an_instance("rests", status="Stopped"))
    assert {move.instance: move.method for move in plan.moves} == {"runs": Method.COPY, "rests": Method.COPY}


def test_a_refresh_is_of_the_copies_that_are_there_and_makes_those_that_are_not() -> None:
    """What is there keeps its pool and profiles, and who asks for others is told so."""
    config = {COPY_OF: "uuid-of-old"}
    pools = {name: Pool(name=name, driver="btrfs", total=GIB, used=0) for name in ("default", "fast")}
    root = {"root": {**ROOT_DISK, "pool": "fast"}}
    there = an_instance("old", status="Stopped", config=config, profiles=("small",), expanded_devices=root)
    source = a_server("s1", an_instance("old"), an_instance("new"))
    request = a_request(policy=Policy(method=Method.REFRESH))
    fleet = a_fleet(source, a_server("s2", there, pools=pools))
    plan = make_plan(request, fleet, plan_id="p1")
    moves = {move.instance: move for move in plan.moves}
    assert {name: move.method for name, move in moves.items()} == {"old": Method.REFRESH, "new": Method.COPY}
    assert (moves["old"].pool, moves["old"].overrides.profiles) == ("fast", ("small",))
    assert (moves["new"].pool, plan.warnings) == ("default", ())
    asking = replace(request, overrides=Overrides(config={"limits.cpu": "1"}))
    (told,) = make_plan(asking, fleet, plan_id="p1").warnings
    assert told.startswith("s2:old is there, and keeps its config")


def test_a_filter_chooses_among_those_that_are_meant_otherwise() -> None:
    """The source has evaluated it; the project and the patterns count too."""
    fleet = replace(
        a_fleet(a_server("s1", an_instance("a"), an_instance("b"), an_instance("c", project="shop")), a_server("s2")),
        matching=frozenset({("default", "b"), ("shop", "c")}),
    )
    plan = make_plan(a_request(select=Selection(source="s1", filter="status eq Running")), fleet, plan_id="p1")
    assert [move.instance for move in plan.moves] == ["b"]


def test_all_projects_are_meant_if_it_says_so() -> None:
    """Each instance is told with its project."""
    instances = (an_instance("twin"), an_instance("twin", project="shop"))
    found = select(instances, Selection(source="s1", all_projects=True))
    assert {(each.project, each.name) for each in found} == {("default", "twin"), ("shop", "twin")}


def test_within_a_cluster_the_members_tell_where_from_and_where_to() -> None:
    """The one with the most room in its own pool first, then by turns."""
    there = (an_instance("web1", location="c1"), an_instance("web2", location="c1"))
    targets = (a_member("c2", free=20), a_member("c3", free=60))
    cluster = replace(a_member(""), instances=there)
    request = a_request(targets=(), members=("c2", "c3"))
    plan = make_plan(request, a_fleet(cluster, *targets), plan_id="p1")
    assert plan.refusals == ()
    assert [(m.source_place, m.target_place) for m in plan.moves] == [("s1/c1", "s1/c3"), ("s1/c1", "s1/c2")]


def test_what_is_on_the_member_already_is_refused() -> None:
    """And said so, one by one."""
    cluster = replace(a_member(""), instances=(an_instance("web1", location="c3"),))
    plan = make_plan(a_request(targets=(), members=("c3",)), a_fleet(cluster, a_member("c3")), plan_id="p1")
    assert [finding.code for refusal in plan.refusals for finding in refusal.findings] == ["member"]


def test_of_several_members_one_that_has_the_instance_keeps_it() -> None:
    """To spread the others over them is what was meant."""
    here, there = an_instance("web1", location="c1"), an_instance("web2", location="c3")
    cluster = replace(a_member(""), instances=(here, there))
    request = a_request(targets=(), members=("c2", "c3"))
    plan = make_plan(request, a_fleet(cluster, a_member("c2"), a_member("c3")), plan_id="p1")
    assert ([move.instance for move in plan.moves], plan.refusals) == (["web1"], ())
    assert plan.warnings == ("web2 stays: it is on member c3 already",)


def into_cluster(*members: str, cluster: Server | None = None, **changes: Any) -> Plan:
    """The plan for ``web1`` and ``web2`` of ``s9`` into the cluster ``s1``, whose members are c1, c2 and c3."""
    cluster = cluster or a_cluster()
    source = a_server("s9", an_instance("web1"), an_instance("web2"))
    request = a_request(select=Selection(source="s9"), targets=("s1",), members=members, **changes)
    at = [replace(cluster, member=name) for name in (*cluster.members, "c9")]
    return make_plan(request, a_fleet(source, cluster, *at), plan_id="p1")


def a_cluster(*instances: Instance, **others: Member) -> Server:
    """``c2`` and ``c3`` are of the group ``gpu``; what ``others`` say comes before."""
    members = {
        name: Member(name=name, address="", status="Online", groups=("default", *(("gpu",) if name != "c1" else ())))
        for name in ("c1", "c2", "c3")
    }
    return replace(a_member(""), instances=instances, members={**members, **others})


def places(plan: Plan) -> list[str]:
    """Where its moves go, in order; nothing is refused."""
    assert plan.refusals == ()
    return [move.target_place for move in plan.moves]


def test_into_a_cluster_the_plan_chooses_the_member() -> None:
    """The one that got the fewest of this plan, then the one that has the fewest; the move names it."""
    plan = into_cluster(cluster=a_cluster(an_instance("a", location="c1"), an_instance("b", location="c2")))
    assert places(plan) == ["s1/c3", "s1/c1"]
    assert plan.moves[0].reason.startswith("fewest instances of this plan so far, 0 there already")
    assert not plan.moves[0].is_within_cluster


def test_members_where_nothing_is_placed_by_itself_get_nothing_unless_they_are_named() -> None:
    """As LXD places: one is for what names it, another for its groups, and others are away."""
    manual = Member(name="c1", address="", status="Online", config={"scheduler.instance": "manual"})
    of_groups = Member(
        name="c2", address="", status="Online", config={"scheduler.instance": "group"}, groups=("default", "gpu")
    )
    cluster = a_cluster(c1=manual, c2=of_groups)
    assert places(into_cluster(cluster=cluster)) == ["s1/c3", "s1/c3"]
    assert places(into_cluster("@gpu", cluster=cluster)) == ["s1/c2", "s1/c3"]
    assert places(into_cluster("c1", cluster=cluster)) == ["s1/c1", "s1/c1"]


def test_if_no_member_may_take_anything_that_is_said_at_once() -> None:
    away = {name: Member(name=name, address="", status="Evacuated") for name in ("c1", "c2", "c3")}
    with pytest.raises(InputError, match="no member of s1 is left"):
        into_cluster(cluster=a_cluster(**away))
    with pytest.raises(InputError, match="s1 has no group tpu; it has default, gpu"):
        into_cluster("@tpu")


def test_a_member_that_is_not_there_is_refused_for_each_instance() -> None:
    plan = into_cluster("c9")
    assert plan.moves == ()
    found = {finding.message for refusal in plan.refusals for finding in refusal.findings}
    assert found == {"s1 has no member c9; its members are c1, c2, c3"}


def test_a_refresh_goes_where_the_copy_is_and_a_new_copy_where_there_is_room() -> None:
    """Also to a member on which nothing new is placed."""
    manual = Member(name="c1", address="", status="Online", config={"scheduler.instance": "manual"})
    copy = an_instance("web2", status="Stopped", location="c1", config={COPY_OF: "uuid-of-web2"})
    plan = into_cluster(cluster=a_cluster(copy, c1=manual), policy=Policy(method=Method.REFRESH))
    assert places(plan) == ["s1/c2", "s1/c1"]
    assert [move.method for move in plan.moves] == [Method.COPY, Method.REFRESH]


def test_members_of_two_targets_are_not_told_apart() -> None:
    with pytest.raises(InputError, match="members are those of one target"):
        make_plan(a_request(targets=("s2", "s3"), members=("c1",)), a_fleet(), plan_id="p1")


def test_out_of_a_cluster_the_move_names_the_member_and_forgets_its_evacuation() -> None:
    """Another cluster may have a member of that name."""
    cluster = a_cluster(an_instance("web1", location="c2", config={HOME: "c1"}))
    plan = make_plan(a_request(), a_fleet(cluster, a_server("s2")), plan_id="p1")
    assert [(m.source_place, m.target_place) for m in plan.moves] == [("s1/c2", "s2")]
    assert plan.moves[0].overrides.config == {HOME: ""}


def test_of_a_group_within_the_cluster_what_is_there_stays() -> None:
    """One member of it is named no more than the others."""
    here, there = an_instance("web1", location="c1"), an_instance("web2", location="c3")
    cluster = a_cluster(here, there)
    at = [replace(cluster, member=name) for name in cluster.members]
    plan = make_plan(a_request(targets=(), members=("@gpu",)), a_fleet(cluster, *at), plan_id="p1")
    assert [(move.instance, move.target_member) for move in plan.moves] == [("web1", "c2")]
    assert plan.warnings == ("web2 stays: it is on member c3 already",)
