"""Which members may be emptied at once, who takes their instances, and what the plan notes for the way back."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.errors import InputError
from common.domain.fleet import Member
from common.domain.instance import HOME, ORIGIN
from common.domain.plan import Overrides, Selection
from producer.members import check_quorum, remaining, takers
from producer.planner import make_plan
from tests.builders import a_fleet, a_member, a_request, a_server, a_server_info, an_instance


def members(*names: str, **changes: Member) -> dict[str, Member]:
    """All online, and with a vote."""
    return {name: member(name) for name in names} | changes


def member(name: str, **changes: Any) -> Member:
    defaults: dict[str, Any] = {"status": "Online", "roles": ("database",), "groups": ("default",)}
    return Member(name=name, address=f"https://{name}:8443", **(defaults | changes))


class TestTheQuorum:
    """The cluster's database works as long as most of its voters do."""

    def test_one_of_three_may_go(self) -> None:
        check_quorum(members("c1", "c2", "c3"), ["c1"])

    def test_the_only_voter_may_go_as_it_hands_its_vote_over(self) -> None:
        check_quorum(members("c1", c2=member("c2", roles=())), ["c1"])

    def test_two_of_three_may_not(self) -> None:
        with pytest.raises(InputError, match="1 of 3 members that vote"):
            check_quorum(members("c1", "c2", "c3"), ["c1", "c2"])

    @pytest.mark.parametrize("status", ["Offline", "Evacuated"])
    def test_who_is_away_already_counts(self, status: str) -> None:
        with pytest.raises(InputError, match="c1, c2 away"):
            check_quorum(members("c1", "c3", c2=member("c2", status=status)), ["c1"])

    def test_those_without_a_vote_do_not_count(self) -> None:
        spare = {name: member(name, roles=()) for name in ("c4", "c5")}
        check_quorum(members("c1", "c2", "c3", **spare), ["c4", "c5"])


class TestTheTakers:
    """The members that get the instances."""

    def test_all_others_at_work(self) -> None:
        away = {"c4": member("c4", status="Offline"), "c5": member("c5", status="Evacuated")}
        assert takers("s1", members("c1", "c2", "c3", **away), ["c1"], []) == ("c2", "c3")

    def test_those_asked_for(self) -> None:
        assert takers("s1", members("c1", "c2", "c3"), ["c1"], ["c3"]) == ("c3",)

    def test_those_of_a_group(self) -> None:
        group = {name: member(name, groups=("default", "gpu")) for name in ("c1", "c3")}
        assert takers("s1", members("c2", **group), ["c1"], ["@gpu"]) == ("c3",)

    @pytest.mark.parametrize(
        ("asked", "words"), [("c1", "c1 cannot take"), ("c9", "c9 cannot take"), ("@gpu", "no group gpu")]
    )
    def test_who_cannot_is_refused(self, asked: str, words: str) -> None:
        with pytest.raises(InputError, match=words):
            takers("s1", members("c1", "c2"), ["c1"], [asked])

    def test_one_that_is_being_emptied_itself_gets_nothing(self) -> None:
        """Nor any other on which LXD places nothing."""
        closed = member("c2", config={"scheduler.instance": "manual"})
        assert takers("s1", members("c1", "c3", c2=closed), ["c1"], []) == ("c3",)
        assert takers("s1", members("c1", "c3", c2=closed), ["c1"], ["c2"]) == ("c2",)

    def test_somebody_has_to_be_left(self) -> None:
        with pytest.raises(InputError, match="no member of s1 is left"):
            takers("s1", members("c1", c2=member("c2", status="Offline")), ["c1"], [])


class TestThePlan:
    """An evacuation and a restore are plans like any other."""

    def plan(self, select: Selection, member: str, *instances: Any) -> Any:
        cluster = a_server("s1", *instances, info=a_server_info("s1", clustered=True))
        request = a_request(select=select, targets=(), members=(member,))
        return make_plan(request, a_fleet(cluster, a_member(member)), plan_id="p1")

    def test_what_leaves_remembers_its_member(self) -> None:
        """What is elsewhere stays; so does what is stopped with its member."""
        bound = an_instance("bound", location="c2", expanded_config={"cluster.evacuate": "stop"})
        here, there = an_instance("here", location="c2"), an_instance("there", location="c3")
        plan = self.plan(Selection(source="s1", members=("c2",)), "c3", bound, here, there)
        assert [(move.instance, move.source_member, dict(move.overrides.config)) for move in plan.moves] == [
            ("here", "c2", {HOME: "c2"})
        ]
        assert [warning for warning in plan.warnings if "bound stays" in warning]

    def test_a_guest_keeps_its_home(self) -> None:
        """It had left `c1` for `c2`, which is emptied now: it belongs to `c1`."""
        guest = an_instance(location="c2", config={HOME: "c1"})
        (move,) = self.plan(Selection(source="s1", members=("c2",)), "c3", guest).moves
        assert move.overrides.config == {HOME: "c1"}

    @pytest.mark.parametrize("select", [Selection(source="s1", members=("c2",)), Selection(source="s1")])
    def test_what_lxd_has_evacuated_belongs_where_lxd_has_noted(self, select: Selection) -> None:
        """Whether it leaves by another evacuation or just moves; LXD's note is not copied by itself."""
        guest = an_instance(location="c2", config={ORIGIN: "c1"})
        (move,) = self.plan(select, "c3", guest).moves
        assert move.overrides.config == {HOME: "c1"}

    def test_what_comes_back_forgets_it(self) -> None:
        """Only those that have left, by boot.autostart.priority; what is back already is not moved."""
        away = {"location": "c2", "config": {HOME: "c3"}}
        first = an_instance("z", expanded_config={"boot.autostart.priority": "5"}, **away)
        back = an_instance("back", location="c3", config={HOME: "c3"})
        others = (an_instance("own", location="c2"), an_instance("other", location="c2", config={HOME: "c1"}))
        by_lxd = an_instance("b", location="c2", config={ORIGIN: "c3"})
        there = (an_instance("a", **away), first, back, by_lxd, *others)
        plan = self.plan(Selection(source="s1", home="c3"), "c3", *there)
        assert [move.instance for move in plan.moves] == ["z", "a", "b"]
        assert {value for move in plan.moves for value in move.overrides.config.values()} == {""}
        assert plan.refusals == ()


def test_an_override_with_nothing_unsets_a_key() -> None:
    """Other keys stay as they are, empty ones too."""
    assert Overrides(config={"a": "", "b": "2"}).over({"a": "1", "c": ""}) == {"b": "2", "c": ""}


def test_only_what_can_leave_keeps_a_member_from_being_empty() -> None:
    bound = an_instance("bound", location="c1", expanded_config={"cluster.evacuate": "stop"})
    left = an_instance("left", location="c1")
    assert remaining((bound, left, an_instance("other", location="c2")), "c1") == (left,)


def test_what_lxd_has_stopped_and_failed_to_move_is_told_from_all_else() -> None:
    """It bears LXD's note, and it ran; what its owner has stopped stays so, and what a job holds is the job's."""
    ran = {"volatile.last_state.power": "RUNNING"}
    left = an_instance(location="c2", status="Stopped", config={ORIGIN: "c2", **ran})
    assert left.is_stranded
    for other in (
        replace(left, status="Running"),
        an_instance(location="c2", status="Stopped", config=ran),
        an_instance(location="c2", status="Stopped", config={ORIGIN: "c2", "volatile.last_state.power": "STOPPED"}),
        an_instance(location="c2", status="Stopped", config={ORIGIN: "c2", **ran, "user.herder.job": "p1-1"}),
    ):
        assert not other.is_stranded
