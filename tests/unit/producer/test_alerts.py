"""Who got no generation from a run, and whose backup is too old: both with who acts next."""

from dataclasses import replace
from datetime import timedelta

import pytest

from common.domain.alert import Cause
from common.domain.drill import Drill
from common.domain.job import Job, JobError, State
from common.domain.plan import Finding, Refusal
from producer.ages import Age
from producer.alerts import of_ages, of_run
from tests.builders import NOW, a_move, a_plan

HOST_PATH = Finding(code="disk", message="has a host path", hint="remove it")
PLAN = a_plan(a_move(instance="web1"), refusals=(Refusal(instance="web2", source="s1", findings=(HOST_PATH,)),))
JOB = Job.of_move(PLAN, 0, NOW)
SUBJECT = "s1:default/web1 -> s2"


def test_who_was_refused_is_told_with_the_hint() -> None:
    (alert,) = of_run("nightly", [PLAN], [replace(JOB, state=State.DONE)], ())
    assert (alert.cause, alert.subject) == (Cause.FAILURE, "s1:default/web2 -> s2")
    assert "has a host path (remove it)" in alert.text


@pytest.mark.parametrize("state", [State.PARKED, State.CANCELLED])
def test_a_job_that_ended_otherwise_is_told_with_what_to_do(state: State) -> None:
    failed = replace(JOB, state=state, error=JobError(code="x", message="the pool is full", hint="make room"))
    alerts = [each for each in of_run("nightly", [PLAN], [failed], ()) if each.subject == SUBJECT]
    assert len(alerts) == 1
    assert "the pool is full (make room)" in alerts[0].text
    other = list(of_run("nightly", [PLAN], [replace(failed, error=None)], ()))
    assert f"herder retry {JOB.id}" in other[-1].text


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.WAITING])
def test_a_failure_lasts_until_a_later_job_is_done(state: State) -> None:
    """Not until one has begun: it would be told as over, and told again, every night."""
    plan = replace(PLAN, refusals=())
    under_way = replace(JOB, state=state)
    assert list(of_run("nightly", [plan], [under_way], ())) == []
    (alert,) = of_run("nightly", [plan], [under_way], {f"failure nightly {SUBJECT}"})
    assert alert.key == f"failure nightly {SUBJECT}"
    assert list(of_run("nightly", [plan], [replace(JOB, state=State.DONE)], {alert.key})) == []


def test_only_breaches_and_what_is_not_proven_are_told() -> None:
    age = Age(
        policy="nightly", source="s1:default/web1", target="s2", last_good=NOW, generation="g",
        age=timedelta(hours=30), rpo=timedelta(hours=26),
    )  # fmt: skip
    young, unbound = replace(age, age=timedelta(hours=1)), replace(age, rpo=None)
    (breach,) = of_ages([age, young, unbound])
    assert breach.subject == SUBJECT
    assert "is 30.0 h old, which is allowed to be 26.0 h old" in breach.text
    failed = Drill(at=NOW, generation="g", succeeded=False, reason="false: exit code 1")
    (unproven,) = of_ages([replace(young, drill=failed)])
    assert (unproven.cause, unproven.subject) == (Cause.UNPROVEN, SUBJECT)
    assert "false: exit code 1; `herder backup drill s1:web1`" in unproven.text
    (never,) = of_ages([replace(age, last_good=None)])
    assert "was never made" in never.text
