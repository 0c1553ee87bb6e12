"""Single stories of a job: what happens to its record from step to step."""

from dataclasses import replace
from datetime import timedelta

import pytest

from common.domain.itinerary import FORWARD, GIVE_BACK, UNDO, Itinerary, Phase
from common.domain.job import GIVE_BACK_AFTER, MAX_GIVE_BACKS, Job, Outcome, Pass, State
from common.domain.operation import OperationRef
from common.domain.plan import Limits, Method
from tests.builders import NOW, a_job, a_move, a_plan, a_request, a_running_job, an_error

SECOND = timedelta(seconds=1)
DOWN_NOW = {"down_at": NOW.isoformat()}


def walk(job: Job) -> list[str]:
    """Complete every step that follows; the names of the steps."""
    steps = []
    while job.state is State.RUNNING:
        steps.append(job.step)
        job = job.with_outcome(Outcome.completed(), NOW)
    return steps


def there_and_back(job: Job) -> Job:
    """Complete the way back that the job is on."""
    while job.state is State.RUNNING and job.is_going_back:
        job = job.with_outcome(Outcome.completed(), NOW)
    return job


def test_a_new_job_stands_at_the_first_step_of_its_method() -> None:
    """Its id is the plan's with the number of the move, counted from 1; limits are those of the request."""
    plan = a_plan(a_move("c1"), a_move("c2", method=Method.COLD), request=a_request(limits=Limits(per_source=9)))
    job = Job.of_move(plan, 1, NOW)
    assert (job.id, job.plan, job.number) == ("p1-2", "p1", 1)
    assert (job.state, job.itinerary, job.step) == (State.QUEUED, "cold", "check_source")
    assert job.move.instance == "c2"
    assert job.limits.per_source == 9
    assert job.created_at == NOW


@pytest.mark.parametrize("method", list(FORWARD))
def test_completed_steps_lead_to_done(method: Method) -> None:
    """Every step of the itinerary is visited once, in order, and the last one ends the job."""
    job = a_job(method=method).taken(NOW)
    assert walk(job) == [step.name for step in FORWARD[method].steps]


@pytest.mark.parametrize("way", [UNDO, GIVE_BACK], ids=lambda way: way.name)
def test_a_way_back_visits_its_steps_in_order(way: Itinerary) -> None:
    """The undo ends as cancelled, the give-back as parked if a person must act."""
    job = a_running_job(way.steps[0].name, itinerary=way.name, reached="full_pass", undo_then="park", error=an_error())
    assert walk(job) == [step.name for step in way.steps]
    assert there_and_back(job).state is (State.CANCELLED if way is UNDO else State.PARKED)


def test_taking_a_job_keeps_the_moment_of_the_first_start() -> None:
    """``started_at`` is when a worker first took it; what it waited for is forgotten."""
    ref = OperationRef(remote="s1", id="o1")
    waiting = a_running_job("full_pass").with_outcome(Outcome.wait("the pass", retry_in=SECOND, operations=(ref,)), NOW)
    taken = waiting.taken(NOW + timedelta(hours=1))
    assert taken.started_at == NOW
    assert (taken.blocked_on, taken.operations) == ("", ())


def test_a_waiting_job_keeps_its_evidence() -> None:
    """What a step must find again is in the record as long as the step waits, and forgotten when it completes."""
    job = a_running_job("full_pass")
    waiting = job.with_outcome(Outcome.wait("the pass", retry_in=SECOND, evidence={"offer": "o1"}), NOW)
    assert waiting.evidence == {"offer": "o1"}
    assert waiting.taken(NOW).evidence == {"offer": "o1"}
    assert waiting.taken(NOW).with_outcome(Outcome.completed(), NOW).evidence == {}


def test_facts_stay_for_the_steps_that_follow() -> None:
    """Facts add up; a later value of the same name wins."""
    job = a_running_job("check_source").with_outcome(Outcome.completed(was_running=True, seen=1), NOW)
    job = job.with_outcome(Outcome.completed(seen=2), NOW)
    assert job.facts == {"was_running": True, "seen": 2}


def test_again_runs_the_same_step_at_once_and_remembers_the_pass() -> None:
    """Refresh passes repeat like this: each is checkpointed, the step stays, faults are forgotten."""
    first = Pass(number=0, kind="full", took=SECOND, sent=100)
    second = Pass(number=1, kind="refresh", took=SECOND, sent=20)
    job = a_running_job("refresh_passes", passes=(first,), attempts=3, error=an_error())
    again = job.with_outcome(Outcome.again(finished_pass=second), NOW)
    assert (again.state, again.step) == (State.RUNNING, "refresh_passes")
    assert again.passes == (first, second)
    assert again.sent == 120
    assert (again.attempts, again.error) == (0, None)


def test_a_fault_is_counted_and_shown_until_the_step_succeeds() -> None:
    """While it waits for the next attempt the record says what went wrong; a success starts the count anew."""
    fault = an_error("server_unreachable", message="s1 does not answer")
    job = a_running_job("full_pass", evidence={"pass": 0})
    waiting = job.with_outcome(Outcome.retry(fault, retry_in=SECOND), NOW)
    assert (waiting.state, waiting.blocked_on, waiting.error) == (State.WAITING, "s1 does not answer", fault)
    assert (waiting.attempts, waiting.total_attempts) == (1, 1)
    assert waiting.evidence == {"pass": 0}
    done = waiting.taken(NOW).with_outcome(Outcome.completed(), NOW)
    assert (done.attempts, done.total_attempts, done.error) == (0, 1, None)


def test_a_short_fault_while_down_is_waited_for() -> None:
    """Starting the source again costs more than waiting a moment."""
    job = a_running_job("final_pass", facts=DOWN_NOW)
    later = job.with_outcome(Outcome.retry(an_error(), retry_in=SECOND), NOW + GIVE_BACK_AFTER)
    assert (later.state, later.step) == (State.WAITING, "final_pass")


def test_a_long_fault_while_down_gives_back_and_goes_on_by_itself() -> None:
    """The source is started again; then the passes go on, so that no finished pass is sent again."""
    fault = an_error("transfer_failed")
    job = a_running_job("final_pass", facts={**DOWN_NOW, "was_running": True}, evidence={"receive": "o1"})
    back = job.with_outcome(Outcome.retry(fault, retry_in=SECOND), NOW + GIVE_BACK_AFTER + SECOND)
    assert (back.state, back.itinerary, back.step) == (State.RUNNING, "give_back", "cancel_pass")
    assert back.evidence == {"receive": "o1"}, "the way back must find the operation to cancel"
    resumed = there_and_back(back)
    assert (resumed.state, resumed.itinerary, resumed.step) == (State.RUNNING, "warm", "refresh_passes")
    assert resumed.facts == {"was_running": True}
    assert resumed.evidence == {}
    assert resumed.give_backs == 1


@pytest.mark.parametrize(
    ("method", "failed_at", "resumes_at"),
    [
        (Method.WARM, "full_pass", "full_pass"),
        (Method.WARM, "refresh_passes", "refresh_passes"),
        (Method.WARM, "stop_source", "refresh_passes"),
        (Method.WARM, "final_pass", "refresh_passes"),
        (Method.WARM, "hand_over", "refresh_passes"),
        (Method.COLD, "stop_source", "stop_source"),
        (Method.COLD, "full_pass", "stop_source"),
        (Method.COLD, "hand_over", "stop_source"),
    ],
)
def test_after_a_verdict_a_retry_goes_on_where_the_copy_is_still_good(
    method: Method, failed_at: str, resumes_at: str
) -> None:
    """The job gives back, parks with the verdict, and a retry continues from the step that the copy allows."""
    verdict = an_error("out_of_space")
    back = a_running_job(failed_at, method=method, facts=DOWN_NOW).with_outcome(Outcome.failed(verdict), NOW)
    parked = there_and_back(back)
    assert (parked.state, parked.step, parked.error) == (State.PARKED, resumes_at, verdict)
    assert parked.finished_at == NOW
    retried = parked.retried()
    assert (retried.state, retried.step, retried.error) == (State.QUEUED, resumes_at, None)
    assert retried.finished_at is None


def test_a_fault_on_the_way_back_does_not_hide_the_verdict() -> None:
    """A person must read why the job was turned back, not that a server was away for a second meanwhile."""
    verdict = an_error("stop_refused")
    back = a_running_job("stop_source", facts=DOWN_NOW).with_outcome(Outcome.failed(verdict), NOW)
    tried = back.with_outcome(Outcome.retry(an_error("server_unreachable"), retry_in=SECOND), NOW)
    assert tried.blocked_on == "told as server_unreachable"
    assert there_and_back(tried.taken(NOW)).error == verdict
    looked = back.with_outcome(Outcome.again(), NOW)
    assert there_and_back(looked).error == verdict


def test_a_retry_of_a_job_that_was_parked_on_the_way_back_goes_on() -> None:
    """A person mended what kept the source from starting: the way back is finished, then the job goes forward."""
    back = a_running_job("final_pass", facts=DOWN_NOW).with_outcome(Outcome.failed(an_error("out_of_space")), NOW)
    stuck = back.with_outcome(Outcome.completed(), NOW).with_outcome(Outcome.failed(an_error("not_found")), NOW)
    assert (stuck.state, stuck.step) == (State.PARKED, "restart_source")
    resumed = there_and_back(stuck.retried().taken(NOW))
    assert (resumed.state, resumed.itinerary, resumed.step) == (State.RUNNING, "warm", "refresh_passes")


def test_a_job_that_gave_back_too_often_is_parked() -> None:
    """After so many give-backs the next long fault brings the source back once more and then waits for a person."""
    job = a_running_job("final_pass", facts=DOWN_NOW, give_backs=MAX_GIVE_BACKS)
    fault = an_error("server_unreachable")
    later = NOW + timedelta(hours=1)
    parked = there_and_back(job.with_outcome(Outcome.retry(fault, retry_in=SECOND), later))
    assert (parked.state, parked.error) == (State.PARKED, fault)
    assert "down_at" not in parked.facts, "the source runs again"
    assert parked.retried().give_backs == 0, "a person's retry counts anew"


@pytest.mark.parametrize("step", ["start_target", "verify_target", "retire_source", "drop_snapshots"])
def test_after_the_commit_point_a_fault_is_waited_for_however_long(step: str) -> None:
    """The target is the instance now: there is no way back."""
    job = a_running_job(step, facts=DOWN_NOW)
    later = job.with_outcome(Outcome.retry(an_error(), retry_in=SECOND), NOW + timedelta(days=1))
    assert (later.state, later.step, later.is_committed) == (State.WAITING, step, True)


@pytest.mark.parametrize("method", list(FORWARD))
def test_a_cancelled_job_that_finds_itself_handed_over_goes_forward(method: Method) -> None:
    """Redis had lost the hand-over: the target is the instance, and no record says otherwise any more."""
    back = a_running_job(method=method).cancelled()
    forward = back.with_outcome(Outcome.goes_forward(was_running=True), NOW)
    after = {
        Method.COPY: "drop_snapshots",
        Method.REFRESH: "drop_kept",
        Method.EXPORT: "drop_backup",
        Method.ARCHIVE: "drop_backup",
        Method.IMPORT: "settle_import",
        Method.VOLUME_MOVE: "retire_volume",
        Method.VOLUME_COPY: "settle_volume",
        Method.VOLUME_REFRESH: "drop_kept_volume",
        Method.BACKUP: "prune",
        Method.DRILL: "drop_clone",
        Method.FAILOVER: "start_failover",
    }
    following = after.get(method, "start_target")
    assert (forward.itinerary, forward.step, forward.is_committed) == (FORWARD[method].name, following, True)
    assert forward.facts["was_running"]


@pytest.mark.parametrize("step", ["start_target", "verify_target", "retire_source", "drop_snapshots"])
def test_after_the_commit_point_a_cancel_is_refused(step: str) -> None:
    """In so many words, and whether it runs or is parked."""
    for state in (State.RUNNING, State.WAITING, State.PARKED):
        with pytest.raises(ValueError, match="past its commit point"):
            a_job(step, state=state, error=an_error()).cancelled()


def test_a_copy_cannot_be_brought_back() -> None:
    """There is nothing to bring: the source is the instance that it always was."""
    with pytest.raises(ValueError, match="its source has never stopped"):
        a_job("drop_snapshots", method=Method.COPY, state=State.DONE).brought_back()


def test_hand_over_itself_is_not_committed_yet() -> None:
    """The commit point is behind a job when its hand_over is checkpointed, not when it begins."""
    job = a_running_job("hand_over")
    assert not job.is_committed
    assert job.with_outcome(Outcome.completed(), NOW).is_committed


@pytest.mark.parametrize("step", [s.name for s in FORWARD[Method.WARM].steps if s.phase is not Phase.CLEANUP][:-2])
def test_a_cancel_before_the_commit_point_goes_the_whole_way_back(step: str) -> None:
    """From every step; the evidence stays, because the way back must find the operations to cancel."""
    cancelled = a_running_job(step, evidence={"offer": "o1"}).cancelled()
    assert (cancelled.itinerary, cancelled.step, cancelled.reached) == ("undo", "cancel_pass", step)
    assert cancelled.evidence == {"offer": "o1"}
    assert there_and_back(cancelled).state is State.CANCELLED


def test_a_second_cancel_changes_nothing() -> None:
    """The job is on its way back already and does not start that way again."""
    job = a_running_job("discard_copy", itinerary="undo", reached="full_pass")
    assert job.cancelled() == job


def test_a_cancel_turns_a_give_back_into_an_undo() -> None:
    """The step that the job had reached is kept."""
    job = a_running_job("restart_source", itinerary="give_back", reached="final_pass", undo_then="resume")
    cancelled = job.cancelled()
    assert (cancelled.itinerary, cancelled.step, cancelled.reached) == ("undo", "cancel_pass", "final_pass")
    assert there_and_back(cancelled).state is State.CANCELLED


@pytest.mark.parametrize("way", ["give_back", "undo"])
def test_a_job_that_was_parked_on_its_way_back_can_be_cancelled(way: str) -> None:
    """It starts the undo, and still knows how far it had come."""
    parked = a_job("restart_source", itinerary=way, reached="final_pass", state=State.PARKED, error=an_error())
    cancelled = parked.cancelled()
    assert (cancelled.state, cancelled.itinerary, cancelled.reached) == (State.QUEUED, "undo", "final_pass")
    assert cancelled.finished_at is None


def test_downtime_is_from_the_stop_to_the_verified_target() -> None:
    """It is unknown until both moments are."""
    job = a_running_job("verify_target", facts=DOWN_NOW)
    assert job.downtime is None
    up = job.with_outcome(Outcome.completed(up_at=(NOW + timedelta(milliseconds=1250)).isoformat()), NOW)
    assert up.downtime == timedelta(milliseconds=1250)
    assert replace(up, facts={}).downtime is None


def test_a_checkpoint_inside_a_step_adds_facts_and_replaces_evidence() -> None:
    """It is what must be found again if the worker dies now."""
    job = a_running_job("stop_source", facts={"was_running": True}, evidence={"old": 1})
    noted = job.noted({"new": 2}, {"down_at": "x"})
    assert noted.evidence == {"new": 2}
    assert noted.facts == {"was_running": True, "down_at": "x"}


@pytest.mark.parametrize(
    ("method", "facts", "distrusts"),
    [
        (Method.COLD, {}, True),
        (Method.WARM, {"no_refresh": "cannot find parent subvolume"}, True),
        (Method.WARM, {}, False),
    ],
)
def test_a_copy_that_no_refresh_will_mend_is_not_trusted_after_a_give_back(
    method: Method, facts: dict[str, object], distrusts: bool
) -> None:
    """Its source has run since; the next whole pass must not take it for up to date."""
    last = GIVE_BACK.steps[-1].name
    job = a_running_job(
        last,
        method=method,
        itinerary=GIVE_BACK.name,
        reached="hand_over",
        undo_then="resume",
        facts={"next_pass": 3, **facts},
    )
    resumed = job.with_outcome(Outcome.completed(), NOW)
    assert resumed.facts.get("whole_from") == (3 if distrusts else None)
