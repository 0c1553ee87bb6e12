"""Pause, resume, retry and cancel as a person asks for them: what is accepted, what is refused and why."""

from dataclasses import replace
from datetime import timedelta

import pytest

from common.domain.errors import InputError
from common.domain.job import Job, State
from common.domain.plan import Plan
from common.store.jobs import JobStore
from producer.control import Answer, cancel, jobs_of, pause, resume, retry, undo
from tests.builders import NOW, a_plan, an_error, many_moves
from tests.integration.conftest import stored
from tests.integration.wire import Wire

JOB = "p1-1"
MINUTE = timedelta(minutes=1)


def brought_to(state: State, store: JobStore, *, step: str = "full_pass", itinerary: str = "warm") -> Job:
    """The job in this state, with nobody holding it."""
    claim = store.claim(JOB, "me")
    assert claim
    job = replace(claim.job, state=state, itinerary=itinerary, step=step, blocked_on="x", error=an_error())
    if job.has_ended:
        job = replace(job, finished_at=NOW)
    store.commit(claim, job, delay=MINUTE)
    return job


def now(store: JobStore) -> Job:
    """The job as stored."""
    job = store.job(JOB)
    assert job
    return job


def only(answers: list[Answer]) -> Answer:
    """The answer about the only job."""
    (answer,) = answers
    assert (answer.job, answer.instance) == (JOB, "web1")
    return answer


def test_a_name_means_a_job_or_all_of_a_plan(store: JobStore) -> None:
    """Anything else is an error that says what there is."""
    stored(a_plan(*many_moves(3)), store)
    assert [job.id for job in jobs_of("p1-2", store)] == ["p1-2"]
    assert [job.id for job in jobs_of("p1", store)] == ["p1-1", "p1-2", "p1-3"]
    with pytest.raises(InputError, match="there is no plan 'p9'"):
        jobs_of("p9", store)


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.QUEUED, State.WAITING, State.RUNNING])
def test_a_cancel_is_left_for_the_worker(store: JobStore, wire: Wire, state: State) -> None:
    """It goes back to the source as soon as a worker looks."""
    brought_to(state, store)
    assert only(cancel(JOB, store)).done == "goes back to the source"
    assert wire.job(JOB)["control"] == "cancel"


@pytest.mark.usefixtures("plan")
def test_a_parked_job_is_turned_back_at_once(store: JobStore, wire: Wire) -> None:
    """No worker touches it, so the request itself changes it and wakes one."""
    brought_to(State.PARKED, store)
    wire.take()
    assert only(cancel(JOB, store)).done == "goes back to the source"
    job = now(store)
    assert (job.state, job.itinerary, job.step, job.reached) == (State.QUEUED, "undo", "cancel_pass", "full_pass")
    assert wire.take() == [("undo", JOB)]


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.DONE, State.CANCELLED])
def test_what_has_ended_is_not_cancelled(store: JobStore, state: State) -> None:
    """The refusal says how it ended."""
    brought_to(state, store, step="drop_snapshots" if state is State.DONE else "check_source")
    assert only(cancel(JOB, store)).refused == f"it is {state}"


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.WAITING, State.PARKED])
def test_past_the_commit_point_a_cancel_is_refused_in_words(store: JobStore, wire: Wire, state: State) -> None:
    """The person must know which side is the instance now."""
    brought_to(state, store, step="verify_target")
    before = wire.everything()
    assert only(cancel(JOB, store)).refused == (
        "it is past the commit point: s2:web1 is the instance now; `herder undo p1-1` brings it back"
    )
    assert wire.everything() == before


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize(("state", "step"), [(State.DONE, "drop_snapshots"), (State.PARKED, "verify_target")])
def test_what_is_finished_is_brought_back(store: JobStore, wire: Wire, state: State, step: str) -> None:
    """Once: a second request changes nothing."""
    brought_to(state, store, step=step)
    wire.take()
    assert only(undo(JOB, store)).done == "goes back to the source"
    job = now(store)
    assert (job.state, job.itinerary, job.step, job.reached) == (State.QUEUED, "bring_back", "stop_target", step)
    assert wire.take() == [("undo", JOB)]
    assert only(undo(JOB, store)).refused == "it is on its way back"
    assert only(cancel(JOB, store)).refused.startswith("it is past the commit point")


@pytest.mark.usefixtures("plan")
def test_an_undo_before_the_commit_point_is_a_cancel(store: JobStore) -> None:
    """It is left for the worker."""
    brought_to(State.WAITING, store, step="full_pass")
    assert only(undo(JOB, store)).done == "goes back to the source"
    assert now(store).itinerary == "warm"


@pytest.mark.usefixtures("plan")
def test_an_undo_of_a_job_that_is_about_to_finish_is_refused(store: JobStore) -> None:
    """It says when to ask again."""
    brought_to(State.WAITING, store, step="verify_target")
    assert f"then `herder undo {JOB}`" in only(undo(JOB, store)).refused


@pytest.mark.usefixtures("plan")
def test_a_parked_job_is_tried_again_from_its_checkpoint(store: JobStore, wire: Wire) -> None:
    """Without the error, and woken in its phase."""
    brought_to(State.PARKED, store, step="full_pass")
    wire.take()
    assert only(retry(JOB, store)).done == "is tried again"
    assert (now(store).state, now(store).step, now(store).error) == (State.QUEUED, "full_pass", None)
    assert wire.take() == [("transfer", JOB)]


@pytest.mark.usefixtures("plan")
def test_a_cancelled_job_is_tried_again_from_the_beginning(store: JobStore, wire: Wire) -> None:
    """Nothing of it is left."""
    brought_to(State.CANCELLED, store, step="release_source", itinerary="undo")
    wire.take()
    assert only(retry(JOB, store)).done == "is tried again"
    assert (now(store).itinerary, now(store).step) == ("warm", "check_source")
    assert wire.take() == [("preflight", JOB)]


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.QUEUED, State.WAITING, State.PAUSED, State.DONE])
def test_nothing_else_is_tried_again(store: JobStore, state: State) -> None:
    """The refusal says what the job is, and what retry is for."""
    brought_to(state, store)
    assert only(retry(JOB, store)).refused == f"it is {state}; only parked and cancelled jobs are tried again"


@pytest.mark.usefixtures("plan")
def test_a_job_that_somebody_holds_is_not_tried_again(store: JobStore) -> None:
    """Two people at once: the second one is told."""
    brought_to(State.PARKED, store)
    assert store.claim(JOB, "another person", ended_too=True)
    assert only(retry(JOB, store)).refused == "a worker holds it; try again in a moment"


@pytest.mark.usefixtures("plan")
def test_a_retry_lets_go_of_the_job(store: JobStore) -> None:
    """A worker can take it at once."""
    brought_to(State.PARKED, store)
    retry(JOB, store)
    assert store.claim(JOB, "worker")


@pytest.mark.usefixtures("plan")
def test_a_pause_is_left_for_the_worker(store: JobStore, wire: Wire) -> None:
    """It finishes the step at hand."""
    assert only(pause(JOB, store)).done == "pauses after its step"
    assert wire.job(JOB)["control"] == "pause"


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.DONE, State.PARKED, State.CANCELLED, State.PAUSED])
def test_what_rests_is_not_paused(store: JobStore, state: State) -> None:
    """There is nothing to hold."""
    brought_to(state, store)
    assert only(pause(JOB, store)).refused == f"it is {state}"


@pytest.mark.usefixtures("plan")
def test_a_paused_job_goes_on_where_it_was(store: JobStore, wire: Wire) -> None:
    """Woken in its phase."""
    brought_to(State.PAUSED, store, step="full_pass")
    wire.take()
    assert only(resume(JOB, store)).done == "goes on"
    assert (now(store).state, now(store).step, now(store).blocked_on) == (State.QUEUED, "full_pass", "")
    assert wire.take() == [("transfer", JOB)]


@pytest.mark.usefixtures("plan")
def test_a_resume_keeps_a_cancel(store: JobStore, wire: Wire) -> None:
    """`herder cancel`, interrupted, then `herder resume`: the instance goes back, as the person was told."""
    cancel(JOB, store)
    resume(JOB, store)
    assert wire.job(JOB)["control"] == "cancel"


@pytest.mark.usefixtures("plan")
def test_a_resume_takes_back_a_pause_that_was_not_carried_out_yet(store: JobStore, wire: Wire) -> None:
    """The job never stops."""
    pause(JOB, store)
    resume(JOB, store)
    assert wire.job(JOB)["control"] == ""


def test_a_plan_is_asked_job_by_job(store: JobStore, plan: Plan) -> None:
    """Some may refuse while others accept."""
    more = stored(replace(a_plan(*many_moves(3)), id="p2"), store)
    claim = store.claim("p2-2", "me")
    assert claim
    store.commit(claim, claim.job.taken(NOW).to(State.DONE, finished_at=NOW))
    answers = cancel(more.id, store)
    assert [(answer.job, bool(answer.refused)) for answer in answers] == [
        ("p2-1", False),
        ("p2-2", True),
        ("p2-3", False),
    ]
    assert store.is_paused(plan.job_id(0)) is False
