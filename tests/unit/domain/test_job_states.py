"""The state machine as a whole: what holds for every change that can happen to any job."""

from collections.abc import Iterable
from itertools import product

import pytest

from common.domain.itinerary import BRING_BACK, FORWARD, GIVE_BACK, GIVE_BACKS, RESUME_AT, UNDOS, Phase
from common.domain.job import ALLOWED, ENDED, State
from common.domain.plan import Method
from producer.report import make_report
from tests.builders import NOW, a_job, a_plan
from tests.unit.domain.machine import Change, all_changes

METHODS = list(FORWARD)


def broken_by(changes: Iterable[Change]) -> str:
    """The first few changes that break a rule, to read in the failure."""
    return "\n".join(str(change) for change in list(changes)[:10])


@pytest.mark.parametrize(("before", "after"), sorted(product(State, State)), ids=lambda state: state.value)
def test_only_the_listed_transitions_are_legal(before: State, after: State) -> None:
    """A job changes its state along the table and nowhere else; anything else raises and names both states."""
    job = a_job(state=before)
    if (before, after) in ALLOWED:
        assert job.to(after).state is after
    else:
        with pytest.raises(ValueError, match=f"{before} -> {after}"):
            job.to(after)


def test_every_legal_transition_can_happen() -> None:
    """The table has no transition that nothing leads to, and nothing happens that is not in the table.

    Staying in a state without a worker (an order to go on that changes nothing) is no transition.
    """
    seen = {(c.before.state, c.after.state) for method in METHODS for c in all_changes(method)}
    assert seen == ALLOWED


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_retry_or_cancel_leads_out_of_an_end(method: Method) -> None:
    """An ended job moves again only because a person asked; a done one only back, no done copy or volume does."""
    left = {(c.event, c.before.state) for c in all_changes(method) if c.before.has_ended}
    back = (
        set()
        if method.is_copy or method.is_of_volume
        else {("brought back", State.PARKED), ("brought back", State.DONE)}
    )
    again = {("retried", State.PARKED), ("cancelled", State.PARKED), ("retried", State.CANCELLED)}
    assert left == again | back


@pytest.mark.parametrize("method", METHODS)
def test_what_is_committed_stays_committed(method: Method) -> None:
    """Past the commit point nothing makes a job uncommitted again, unless it was brought back and begins anew."""
    changes = [c for c in all_changes(method) if c.before.state is not State.CANCELLED]
    assert not broken_by(c for c in changes if c.before.is_committed and not c.after.is_committed)


@pytest.mark.parametrize("method", METHODS)
def test_a_way_back_is_never_taken_after_the_commit_point(method: Method) -> None:
    """Only a person has a committed job brought back, and any other way back remembers an uncommitted step."""
    asked = [c for c in all_changes(method) if c.event == "brought back"]
    assert {c.before.is_committed for c in asked} == (set() if method.is_copy or method.is_of_volume else {True})
    changes = [c for c in all_changes(method) if c.after.itinerary != BRING_BACK.name]
    commit = next(number for number, step in enumerate(FORWARD[method].steps) if step.commit)
    assert not broken_by(c for c in changes if c.before.is_committed and c.after.is_going_back)
    assert not broken_by(
        c for c in changes if c.after.is_going_back and FORWARD[method].index(c.after.reached) > commit
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_way_back_remembers_the_forward_step_that_it_left(method: Method) -> None:
    """Also when one way back turns into the other, and when it was parked in between: progress is counted by it."""
    forward = {step.name for step in FORWARD[method].steps}
    assert not broken_by(c for c in all_changes(method) if c.after.is_going_back and c.after.reached not in forward)


@pytest.mark.parametrize("method", METHODS)
def test_a_job_that_is_not_moving_says_why(method: Method) -> None:
    """It has a blocked_on while it waits or is paused, and an error when it is parked; there is no third case."""
    waiting = {State.WAITING, State.PAUSED}
    assert not broken_by(c for c in all_changes(method) if c.after.state in waiting and not c.after.blocked_on)
    assert not broken_by(c for c in all_changes(method) if c.after.state is State.PARKED and c.after.error is None)


@pytest.mark.parametrize("method", METHODS)
def test_a_job_has_a_finish_exactly_when_it_has_ended(method: Method) -> None:
    """Done, parked and cancelled jobs know when they finished; a job that was tried again has not finished."""
    assert not broken_by(c for c in all_changes(method) if c.after.has_ended is (c.after.finished_at is None))


@pytest.mark.parametrize("method", METHODS)
def test_a_cancelled_job_went_the_whole_way_back(method: Method) -> None:
    """A job is called cancelled only by the last step of an itinerary that ends at the source."""
    last = {(way.name, way.steps[-1].name) for way in (UNDOS[method], BRING_BACK)}
    assert not broken_by(
        c
        for c in all_changes(method)
        if c.after.state is State.CANCELLED and (c.before.itinerary, c.before.step) not in last
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_cancelled_job_starts_from_the_beginning(method: Method) -> None:
    """After an undo nothing is left on any server, so nothing of the job's memory may be left either."""
    retried = [c.after for c in all_changes(method) if c.before.state is State.CANCELLED]
    assert retried
    first = FORWARD[method]
    assert {(job.itinerary, job.step) for job in retried} == {(first.name, first.steps[0].name)}
    assert not any(job.facts or job.evidence or job.passes or job.error for job in retried)


@pytest.mark.parametrize("method", METHODS)
def test_a_job_that_gave_back_never_resumes_later_than_it_may(method: Method) -> None:
    """The source has been running since, so what was copied is stale: it goes on before the passes that mend that."""
    forward = FORWARD[method]
    given_back = [c for c in all_changes(method) if c.before.is_giving_back and c.event != "found handed over"]
    resumed = [c for c in given_back if not c.after.is_going_back]
    assert resumed
    assert not broken_by(c for c in resumed if forward.index(c.after.step) > forward.index(RESUME_AT[method]))
    assert not broken_by(c for c in resumed if "down_at" in c.after.facts)


@pytest.mark.parametrize("method", METHODS)
def test_a_verdict_before_the_commit_point_goes_back_and_one_after_it_parks_in_place(method: Method) -> None:
    """Before it the source must run as before, unless nothing was done yet; after it the target is the instance."""
    verdicts = [c for c in all_changes(method) if c.event == "verdict" and not c.before.is_going_back]
    in_place = {c.before.step for c in verdicts if c.after.state is State.PARKED and c.after.step == c.before.step}
    back = {c.before.step for c in verdicts if c.after.itinerary == GIVE_BACKS[method].name}
    steps = FORWARD[method].steps
    commit = next(number for number, step in enumerate(steps) if step.commit)
    assert in_place == {s.name for n, s in enumerate(steps) if n > commit or s.phase is Phase.PREFLIGHT}
    assert back == {s.name for s in steps} - in_place


@pytest.mark.parametrize("method", [method for method in METHODS if not method.is_copy and not method.is_of_volume])
def test_no_fault_keeps_the_instance_down_for_longer_than_allowed(method: Method) -> None:
    """Before the commit point a fault while the instance has been down for an hour always leads back to its source."""
    late = [c for c in all_changes(method) if c.event == "fault after an hour" and c.before.down_at is not None]
    uncommitted = [c for c in late if not c.before.is_committed and not c.before.is_going_back]
    assert uncommitted
    assert not broken_by(c for c in uncommitted if c.after.itinerary != GIVE_BACK.name)


@pytest.mark.parametrize("method", [method for method in METHODS if method.is_copy or method.is_of_volume])
def test_a_copy_never_takes_its_source_down(method: Method) -> None:
    """Whatever happens to the job."""
    assert not broken_by(c for c in all_changes(method) if c.after.down_at is not None)


@pytest.mark.parametrize("method", METHODS)
def test_every_record_can_be_reported(method: Method) -> None:
    """Whatever state a job is in, the report of its plan can be made, and its share lies between 0 and 1."""
    plan = a_plan(a_job(method=method).move)
    shares = {make_report(plan, [c.after], {}, NOW).jobs[0].share for c in all_changes(method)}
    assert min(shares) == 0
    assert max(shares) == 1


def test_ended_are_the_states_in_which_nothing_happens_by_itself() -> None:
    """The pump and the report rely on it."""
    assert {State.DONE, State.PARKED, State.CANCELLED} == ENDED
