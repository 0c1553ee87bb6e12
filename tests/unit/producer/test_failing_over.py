"""Which instances take the place of others, and what keeps them from it: wherever the other one may run."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.errors import InputError, ServerUnreachable
from common.domain.instance import FAILED_OVER, STALE_ROLE, Instance
from common.domain.plan import Limits, Overrides, Plan, Policy
from producer.failing_over import Seen, as_failover, check_statement, requests_home
from producer.planner import make_plan
from producer.restoring import Chosen, Wanted, in_boot_order, requests, with_definitions
from tests.builders import (
    ROOT_DISK,
    a_fleet,
    a_generation,
    a_retired_instance,
    a_server,
    an_instance,
)
from tests.unit.producer.test_restoring import a_definition, told

WEB_IS_STOPPED: Seen = {"s1": (an_instance("web1", status="Stopped"),)}


def planned(seen: Seen, *there: Instance, definition: dict[str, Any] | None = None) -> Plan:
    """The failover of web1 of s1 onto s2, which has these instances too."""
    chosen = [
        Chosen(told("web1"), definition or a_definition("web1", devices={}, expanded_devices={"root": ROOT_DISK}))
    ]
    backup = replace(a_generation(), name=chosen[0].generation.name)
    fleet = a_fleet(a_server("s2", backup, *there))
    (request,) = requests(chosen, Wanted(to="s2", bakes=True, keeps_addresses=True, takes_place=True))
    plan = in_boot_order(make_plan(request, with_definitions(fleet, request, chosen), plan_id="p1"), chosen)
    return as_failover(plan, chosen, seen)


def refused(plan: Plan) -> list[str]:
    assert plan.moves == ()
    return [f"{each.source}:{each.instance} {finding.code}" for each in plan.refusals for finding in each.findings]


def test_what_is_stopped_at_home_is_failed_over_as_the_machine_that_it_was() -> None:
    """With its own name, on the server of its backup, with its addresses; whether it starts is as it was."""
    (move,) = planned(WEB_IS_STOPPED, definition=None).moves
    assert (move.source, move.target, move.name, move.is_local) == ("s2", "s2", "web1", True)
    assert move.overrides.config["volatile.eth0.hwaddr"] == "00:16:3e:00:00:01"
    assert move.overrides.config[FAILED_OVER] == "s1:default/web1"
    assert str(move.takes_place_of) == "s1:web1"
    assert (move.takes_place_of.starts, move.takes_place_of.source_is_down) == (True, False)
    stopped = a_definition("web1", devices={}, expanded_devices={"root": ROOT_DISK}, ran=False)
    (move,) = planned(WEB_IS_STOPPED, definition=stopped).moves
    assert not move.takes_place_of.starts


def test_what_runs_anywhere_is_refused_by_name() -> None:
    """At home; on another server, where it was moved or failed over; and what its name on the target has already."""
    running = {"s1": (an_instance("web1", status="Running"),)}
    assert refused(planned(running)) == ["s1:web1 runs"]
    definition = a_definition("web1", devices={}, expanded_devices={"root": ROOT_DISK}, identity="same")
    moved = {**WEB_IS_STOPPED, "s3": (an_instance("web1", config={"volatile.uuid": "same"}),)}
    assert refused(planned(moved, definition=definition)) == ["s1:web1 elsewhere"]
    over = an_instance("web1", config={FAILED_OVER: "s1:default/web1"})
    assert refused(planned({**WEB_IS_STOPPED, "s3": (over,)})) == ["s1:web1 elsewhere"]
    assert refused(planned({**WEB_IS_STOPPED, "s2": (over,)}, over)) == ["s1:web1 elsewhere"]
    assert refused(planned(WEB_IS_STOPPED, an_instance("web1"))) == ["s1:web1 name_taken"]
    retired = {**WEB_IS_STOPPED, "s3": (a_retired_instance("web1", config={"volatile.uuid": "same"}),)}
    assert planned(retired, definition=definition).moves


def test_that_a_server_is_down_must_be_said_and_must_not_be_said_of_one_that_answers() -> None:
    """What was said is in the plan."""
    with pytest.raises(ServerUnreachable, match="s1 does not answer") as silent:
        check_statement(["s1"], {}, source_is_down=False)
    assert "--source-is-down" in silent.value.hint
    with pytest.raises(InputError, match="s1 answers"):
        check_statement(["s1"], WEB_IS_STOPPED, source_is_down=True)
    check_statement(["s1"], {}, source_is_down=True)
    check_statement(["s1"], WEB_IS_STOPPED, source_is_down=False)
    plan = planned({})
    assert plan.moves[0].takes_place_of.source_is_down
    assert "you say that the server of s1:web1 is down" in plan.warnings[-1]


def test_what_comes_home_moves_to_where_it_was_and_only_what_a_failover_has_left_makes_way() -> None:
    """Under its own name; another instance of that name stays."""
    over = an_instance("web1", config={FAILED_OVER: "s1:default/web1"})
    (request,) = requests_home([("s2", over)], Policy(), Limits(), Overrides())
    stale = a_retired_instance("web1", status="Stopped")
    stale = replace(stale, config={**stale.config, "user.herder.role": STALE_ROLE})

    def at_home(*there: Instance) -> Plan:
        return make_plan(request, a_fleet(a_server("s2", over), a_server("s1", *there)), plan_id="p1")

    for there in ((), (stale,)):
        (move,) = at_home(*there).moves
        assert (move.target, move.name, move.goes_home) == ("s1", "web1", True)
        assert FAILED_OVER not in move.overrides.over(over.config)
    assert [f.code for f in at_home(an_instance("web1")).refusals[0].findings] == ["name_taken"]
