"""Which generations are drilled, and which are refused by name."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from common.domain.backup import BackupPolicy, BackupTarget, DrillPolicy, Schedule, with_drills
from common.domain.drill import Drill, DrillOrder
from common.domain.generation import BACKUP_DEFINITION, Generation
from common.domain.instance import Instance
from common.domain.plan import Health, Method, Plan, Selection
from producer.drilling import Terms, newest_drill, of_policy, plan_drills, request_for
from tests.builders import NOW, ROOT_DISK, VOLUME_DISK, a_fleet, a_generation, a_server

DAY = timedelta(days=1)
TERMS = Terms(at=NOW, command=("true",), timeout=timedelta(seconds=30))
POLICY = BackupPolicy(
    name="nightly",
    select=Selection(source="s1"),
    schedule=Schedule(when="daily"),
    targets=(BackupTarget(remote="s2"), BackupTarget(remote="s3")),
    drill=DrillPolicy(schedule=Schedule(when="weekly")),
)


def generation(days_ago: int = 0, *, of: str = "web1", policy: str = "nightly", drill: int | None = None) -> Generation:
    """``drill``: how many days ago it was drilled."""
    name = f"{of}-57ef-{NOW - days_ago * DAY:%Y%m%d-%H%M%S}"
    told = Drill(at=NOW - drill * DAY, generation=name, succeeded=True) if drill is not None else None
    at, source = NOW - days_ago * DAY, f"s1:default/{of}"
    return Generation(policy=policy, source=source, at=at, remote="s2", project="default", name=name, drill=told)


def whole(**changes: Any) -> Instance:
    """A generation as a server has it, with its root disk and a definition."""
    made = a_generation(**changes)
    definition = {"profiles": [], "config": {}, "expanded_devices": {"root": ROOT_DISK}}
    config = {BACKUP_DEFINITION: json.dumps(definition), **made.config}
    devices = {"root": ROOT_DISK, **made.devices}
    return replace(made, config=config, devices=devices, expanded_devices=devices)


def planned(there: Instance) -> Plan:
    found = Generation.of(there, "s2") or generation()
    found = replace(found, name=there.name)
    request = request_for([found], TERMS, "p1")
    return plan_drills(request, a_fleet(a_server("s2", there)), [found], TERMS, plan_id="p1")


def test_the_volumes_beside_a_generation_are_cloned_for_its_drill() -> None:
    """Under names of this plan's, in the pool that they are in."""
    kept = {"pool": "default", "name": "data", "kept_in": "slow", "kept_as": f"data-57ef-{NOW:%Y%m%d-%H%M%S}"}
    definition = {"profiles": [], "config": {}, "expanded_devices": {"data": VOLUME_DISK}, "volumes": [kept]}
    there = whole()
    there = replace(there, config={**there.config, BACKUP_DEFINITION: json.dumps(definition)})
    (move,) = planned(there).moves
    (volume,) = move.volumes
    assert (str(volume), volume.target_pool, volume.target_name) == (
        f"slow/{kept['kept_as']}",
        "slow",
        "data-57ef-drill-p1",
    )


def test_a_drill_is_a_clone_on_the_generation_s_own_server() -> None:
    (move,) = planned(whole()).moves
    assert (move.method, move.source, move.target, move.is_copy) == (Method.DRILL, "s2", "s2", True)
    assert move.name.endswith("-drill-p1")
    assert (move.drill, move.origin) == (
        DrillOrder(at=NOW, source="s1:default/web1", timeout=TERMS.timeout),
        "s1:default/web1",
    )
    assert move.policy.health == Health(command=("true",), timeout=TERMS.timeout)


@pytest.mark.parametrize(
    ("there", "code"),
    [
        pytest.param(whole(status="Running"), "backup", id="runs"),
        pytest.param(whole(profiles=("default",)), "backup", id="has a profile"),
        pytest.param(whole(state="making"), "backup", id="unfinished"),
        pytest.param(a_generation(), "definition", id="without a definition"),
        pytest.param(
            whole(marks={BACKUP_DEFINITION: json.dumps({"expanded_devices": {"data": VOLUME_DISK}})}),
            "volume",
            id="with a volume",
        ),
    ],
)
def test_what_is_no_whole_generation_by_itself_is_refused_by_name(there: Instance, code: str) -> None:
    plan = planned(there)
    (refusal,) = plan.refusals
    assert plan.moves == ()
    assert refusal.instance == there.name
    assert [finding.code for finding in refusal.findings] == [code]


def test_of_a_policy_the_newest_generation_of_each_instance_is_drilled() -> None:
    found = [generation(0), generation(1), generation(2, of="web2"), generation(0, of="web2", policy="other")]
    assert of_policy(found, "nightly") == [found[0], found[2]]
    assert of_policy(found, "unknown") == []


def test_a_drill_run_counts_as_made_when_every_drilled_instance_tells_of_it() -> None:
    """Should Redis be lost in the middle of one, it is made again; what was never drilled does not hold it up."""
    found = [generation(0, drill=1), generation(1, drill=8), generation(0, of="web2", drill=8), generation(0, of="new")]
    assert newest_drill(found, POLICY) == NOW - 8 * DAY
    assert newest_drill(found[:2], POLICY.as_drill()) == NOW - DAY
    assert newest_drill([generation()], POLICY) is None


def test_a_policy_s_drill_is_run_as_another_policy_beside_it() -> None:
    """With a name that no policy can have, and a schedule of its own, over the same generations."""
    policy, drill = with_drills([POLICY])
    assert (policy, policy.is_drill) == (POLICY, False)
    assert (drill.name, drill.is_drill, drill.base_name) == ("nightly/drill", True, "nightly")
    assert (drill.schedule.when, drill.drill_target) == ("weekly", "s2")
    assert with_drills([replace(POLICY, drill=None)]) == (replace(POLICY, drill=None),)
