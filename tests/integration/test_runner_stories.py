"""What a worker makes of a job: the good way, faults, verdicts, bugs, and what people ask for at any moment."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from common.domain.errors import (
    CutoverBroken,
    FenceLost,
    HerderError,
    NotTrusted,
    ServerBusy,
    ServerUnreachable,
    StopRefused,
    TransferFailed,
    UnknownRemote,
    VerificationFailed,
)
from common.domain.itinerary import COLD, FORWARD, GIVE_BACK, UNDO, WARM, Phase, Step
from common.domain.job import GIVE_BACK_AFTER, MAX_GIVE_BACKS, Job, Outcome, Pass, State
from common.domain.operation import Operation, OperationRef
from common.domain.plan import Limits, Method
from producer import control
from tests.builders import a_move, a_plan, a_request, many_moves
from tests.integration.conftest import stored
from tests.integration.stage import Part, Stage
from workers.runner import MAX_ATTEMPTS
from workers.steps.context import Context

JOB = "p1-1"
SECOND = timedelta(seconds=1)
OFFER = OperationRef(remote="s1", id="o1")

WARM_STEPS = [step.name for step in WARM.steps]
COLD_STEPS = [step.name for step in COLD.steps]
UNDO_STEPS = [step.name for step in UNDO.steps]
GIVE_BACK_STEPS = [step.name for step in GIVE_BACK.steps]
BEFORE_COMMIT = WARM.steps[: WARM.index("hand_over") + 1]
AFTER_COMMIT = WARM.steps[WARM.index("hand_over") + 1 :]


def begun(stage: Stage, method: Method = Method.WARM) -> None:
    """The job of ``web1``, submitted."""
    stored(a_plan(a_move(method=method)), stage.store)


def fails_with(error: Exception) -> Part:
    """A step that raises."""

    def part(_: Context) -> Outcome:
        raise error

    return part


def waits_for(*operations: OperationRef, evidence: dict[str, object] | None = None) -> Part:
    """A step that waits for operations."""
    return lambda _: Outcome.wait("the pass", retry_in=SECOND, operations=operations, evidence=evidence)


def takes(stage: Stage, time: timedelta) -> Part:
    """A step that takes its time and completes."""

    def part(_: Context) -> Outcome:
        stage.clock.advance(time)
        return Outcome.completed()

    return part


def asks(stage: Stage, ask: Callable[..., object], then: Part | None = None) -> Part:
    """A step during which a person asks for something."""

    def part(ctx: Context) -> Outcome:
        ask(JOB, stage.store)
        return then(ctx) if then else stage.steps.complete(ctx.job.step, ctx)

    return part


def test_a_warm_move_runs_every_step_once_in_order(stage: Stage) -> None:
    """And is done, with its downtime measured; nothing is left to wait for."""
    begun(stage)
    stage.steps.parts["hand_over"] = [takes(stage, 2 * SECOND)]
    job = stage.play()
    assert stage.steps.ran == WARM_STEPS
    assert (job.state, job.error, job.downtime) == (State.DONE, None, 2 * SECOND)
    assert stage.store.unfinished() == 0
    assert stage.told("step", "outcome") == [(name, "completed") for name in WARM_STEPS]


def test_a_cold_move_runs_every_step_once_in_order(stage: Stage) -> None:
    """Its source stops first."""
    begun(stage, Method.COLD)
    job = stage.play()
    assert stage.steps.ran == COLD_STEPS
    assert job.state is State.DONE


def test_each_phase_is_answered_from_its_own_queue(stage: Stage) -> None:
    """A wake-up carries a job to the end of its phase and no further."""
    begun(stage)
    seen = []
    while messages := stage.wire.take():
        ((phase, job_id),) = messages
        before = len(stage.steps.ran)
        stage.worker().advance(job_id)
        seen.append((phase, stage.steps.ran[before:]))
    assert seen == [(phase, [s.name for s in WARM.steps if s.phase is phase]) for phase in list(Phase)[:4]]


def test_a_step_that_waits_goes_on_when_its_operation_ends(stage: Stage) -> None:
    """With the evidence that it left for itself."""
    begun(stage)
    stage.steps.parts["full_pass"] = [waits_for(OFFER, evidence={"offer": "o1"})]
    stage.deliver()
    assert (stage.job().state, stage.job().blocked_on) == (State.WAITING, "the pass")
    stage.operations.complete("s1", Operation(id="o1", status_code=200))
    stage.deliver()
    assert stage.job().state is State.DONE
    second_run = stage.steps.contexts[stage.steps.ran.index("full_pass") + 1]
    assert second_run.job.evidence == {"offer": "o1"}
    assert stage.steps.ran.count("full_pass") == 2


def test_a_step_that_waits_looks_again_without_any_event(stage: Stage) -> None:
    """Events are an optimisation."""
    begun(stage)
    stage.steps.parts["full_pass"] = [waits_for(OFFER), waits_for(OFFER)]
    assert stage.play().state is State.DONE
    assert stage.steps.ran.count("full_pass") == 3


def test_refresh_passes_are_checkpointed_one_by_one(stage: Stage) -> None:
    """The passes are in the record, in their order."""
    begun(stage)
    passes = [Pass(number=n, kind="refresh", took=SECOND, sent=100 - n) for n in range(3)]
    stage.steps.parts["refresh_passes"] = [lambda _, p=p: Outcome.again(finished_pass=p) for p in passes]  # type: ignore[misc]
    assert stage.play().passes == tuple(passes)
    assert stage.steps.ran.count("refresh_passes") == 4


@pytest.mark.parametrize("step", WARM.steps, ids=lambda step: step.name)
def test_a_temporary_fault_is_tried_again_and_leaves_no_trace(stage: Stage, step: Step) -> None:
    """Meanwhile the record says what is waited for; the job finishes as if nothing had been."""
    begun(stage)
    stage.steps.parts[step.name] = [fails_with(TransferFailed("s2: connection reset"))]
    stage.deliver()
    waiting = stage.job()
    assert (waiting.state, waiting.step) == (State.WAITING, step.name)
    assert (waiting.blocked_on, waiting.attempts) == ("s2: connection reset", 1)
    assert waiting.error
    assert waiting.error.code == "transfer_failed"
    done = stage.play()
    assert (done.state, done.error, done.total_attempts) == (State.DONE, None, 1)
    again = WARM_STEPS[:]
    again.insert(WARM_STEPS.index(step.name), step.name)
    assert stage.steps.ran == again


def test_a_retry_waits_before_it_looks_again(stage: Stage) -> None:
    """A stray wake-up in between finds it early."""
    begun(stage)
    stage.steps.parts["full_pass"] = [fails_with(ServerBusy("s1 is busy"))]
    stage.deliver()
    ran = len(stage.steps.ran)
    stage.worker().advance(JOB)
    assert len(stage.steps.ran) == ran
    due = stage.wire.due_in_seconds(JOB)
    assert due is not None
    assert 0 < due <= 3


@pytest.mark.parametrize("error", [ServerUnreachable("s1 does not answer"), ServerBusy("s1 is busy")])
def test_a_server_that_is_away_is_waited_for_without_end(stage: Stage, error: HerderError) -> None:
    """It will be back one day; nobody has to tell herder."""
    begun(stage)
    stage.steps.parts["full_pass"] = [fails_with(error)] * (5 * MAX_ATTEMPTS)
    assert stage.play().state is State.DONE
    assert stage.job().total_attempts == 5 * MAX_ATTEMPTS


def test_any_other_fault_waits_for_a_person_in_the_end(stage: Stage) -> None:
    """After so many attempts it is given back and parked, with the fault and how to go on."""
    begun(stage)
    stage.steps.parts["full_pass"] = [fails_with(TransferFailed("s2: broken pipe"))] * MAX_ATTEMPTS
    job = stage.play()
    assert (job.state, job.step) == (State.PARKED, "full_pass")
    assert job.error
    assert job.error.code == "transfer_failed"
    assert job.error.hint == f"tried {MAX_ATTEMPTS} times; `herder retry {JOB}`"
    assert stage.steps.ran.count("full_pass") == MAX_ATTEMPTS
    assert stage.steps.ran[-2:] == GIVE_BACK_STEPS


def test_a_bug_parks_after_three_attempts_with_its_traceback(stage: Stage) -> None:
    """Trying often would not mend it; the traceback is for the report."""
    begun(stage)
    stage.steps.parts["full_pass"] = [fails_with(ZeroDivisionError("oops"))] * 3
    job = stage.play()
    assert job.state is State.PARKED
    assert stage.steps.ran.count("full_pass") == 3
    assert job.error
    assert job.error.code == "bug"
    assert "ZeroDivisionError: oops" in job.error.message
    assert "test_runner_stories.py" in job.error.message


def test_a_bug_that_happens_once_is_survived(stage: Stage) -> None:
    """Other jobs of the worker never notice."""
    begun(stage)
    stage.steps.parts["full_pass"] = [fails_with(KeyError("x"))]
    assert stage.play().state is State.DONE


def test_a_server_that_nobody_knows_any_more_parks_the_job(stage: Stage) -> None:
    """The remote was removed from the client's configuration after planning; steps cannot even begin."""
    begun(stage)

    def unknown(remote: str) -> object:
        raise UnknownRemote(f"no remote {remote!r}")

    for _ in range(5):
        worker = stage.worker()
        worker.client_of = unknown  # type: ignore[assignment]
        stage.deliver(worker)
        if stage.at_rest():
            break
        stage.let_time_pass()
    assert stage.job().state is State.PARKED
    error = stage.job().error
    assert error
    assert (error.code, error.message) == ("unknown_remote", "no remote 's1'")


@pytest.mark.parametrize("step", BEFORE_COMMIT, ids=lambda step: step.name)
def test_a_verdict_before_the_commit_point_gives_back_and_parks(stage: Stage, step: Step) -> None:
    """Preflight has done nothing yet, so there is nothing to give back."""
    begun(stage)
    stage.steps.parts[step.name] = [fails_with(StopRefused("the guest does not obey"))]
    job = stage.play()
    gave_back = [] if step.phase is Phase.PREFLIGHT else GIVE_BACK_STEPS
    assert stage.steps.ran == [*WARM_STEPS[: WARM.index(step.name) + 1], *gave_back]
    assert job.state is State.PARKED
    assert job.error
    assert (job.error.code, job.error.message) == ("stop_refused", "the guest does not obey")
    assert "downtime" not in job.facts
    assert job.down_at is None, "the source runs again"


@pytest.mark.parametrize("step", AFTER_COMMIT, ids=lambda step: step.name)
def test_a_verdict_after_the_commit_point_parks_in_place(stage: Stage, step: Step) -> None:
    """And a retry goes on from there."""
    begun(stage)
    stage.steps.parts[step.name] = [fails_with(VerificationFailed("its addresses are others"))]
    job = stage.play()
    assert (job.state, job.step, job.is_committed) == (State.PARKED, step.name, True)
    assert stage.steps.ran == WARM_STEPS[: WARM.index(step.name) + 1]
    control.retry(JOB, stage.store)
    assert stage.play().state is State.DONE
    assert stage.steps.ran[WARM.index(step.name) + 1 :] == WARM_STEPS[WARM.index(step.name) :]


def test_a_long_fault_while_down_gives_back_and_goes_on_by_itself(stage: Stage) -> None:
    """The target is away in the middle of a cutover: the instance runs on its source meanwhile."""
    begun(stage)

    def away(_: Context) -> Outcome:
        stage.clock.advance(GIVE_BACK_AFTER / 2)
        raise ServerUnreachable("s2 does not answer")

    stage.steps.parts["final_pass"] = [away, away, away]
    job = stage.play()
    at = WARM.index("final_pass")
    assert stage.steps.ran == [
        *WARM_STEPS[:at],
        *["final_pass"] * 3,
        *GIVE_BACK_STEPS,
        *WARM_STEPS[WARM.index("refresh_passes") :],
    ]
    assert (job.state, job.give_backs) == (State.DONE, 1)
    assert job.downtime == timedelta(0), "the time that it was given back does not count"


def test_a_source_that_was_started_by_somebody_gives_back_at_once(stage: Stage) -> None:
    """What was passed since is stale, so the passes are repeated."""
    begun(stage)
    stage.steps.parts["hand_over"] = [fails_with(CutoverBroken("s1:web1 was started by somebody"))]
    job = stage.play()
    at = WARM.index("hand_over")
    assert stage.steps.ran == [
        *WARM_STEPS[: at + 1],
        *GIVE_BACK_STEPS,
        *WARM_STEPS[WARM.index("refresh_passes") :],
    ]
    assert (job.state, job.give_backs) == (State.DONE, 1)


def test_giving_back_for_ever_waits_for_a_person(stage: Stage) -> None:
    """After so many times the instance stays on its source, running, and the job is parked."""
    begun(stage)

    def away(_: Context) -> Outcome:
        stage.clock.advance(2 * GIVE_BACK_AFTER)
        raise ServerUnreachable("s2 does not answer")

    stage.steps.parts["final_pass"] = [away] * 100
    job = stage.play(looks=100)
    assert (job.state, job.give_backs, job.down_at) == (State.PARKED, MAX_GIVE_BACKS, None)
    assert stage.steps.ran.count("restart_source") == MAX_GIVE_BACKS + 1


def test_a_fault_on_the_way_back_is_tried_again(stage: Stage) -> None:
    """Bringing an instance back is never given up for a server that is away."""
    begun(stage)
    stage.steps.parts["final_pass"] = [fails_with(StopRefused("the guest does not obey"))]
    stage.steps.parts["restart_source"] = [fails_with(ServerUnreachable("s1 does not answer"))] * 20
    job = stage.play()
    assert stage.steps.ran.count("restart_source") == 21
    assert job.state is State.PARKED
    assert job.error
    assert job.error.code == "stop_refused", "the reason, not what happened on the way"


@pytest.mark.parametrize("step", BEFORE_COMMIT, ids=lambda step: step.name)
def test_a_cancel_is_obeyed_after_the_step_at_hand(stage: Stage, step: Step) -> None:
    """The rest of the way forward is not gone; the way back is, to its end. From hand_over on it only goes forward."""
    begun(stage)
    stage.steps.parts[step.name] = [asks(stage, control.cancel)]
    job = stage.play()
    if step.commit:
        assert job.state is State.DONE
        assert stage.steps.ran == WARM_STEPS
    else:
        assert job.state is State.CANCELLED
        assert stage.steps.ran == [*WARM_STEPS[: WARM.index(step.name) + 1], *UNDO_STEPS]


@pytest.mark.parametrize("step", BEFORE_COMMIT, ids=lambda step: step.name)
def test_a_cancel_of_a_job_that_waits_is_obeyed_at_once(stage: Stage, step: Step) -> None:
    """Without waiting for what it waited for; the way back finds the evidence."""
    begun(stage)
    stage.steps.parts[step.name] = [waits_for(OFFER, evidence={"offer": "o1"})]
    stage.deliver()
    control.cancel(JOB, stage.store)
    stage.deliver()
    assert stage.job().state is State.CANCELLED
    assert stage.steps.ran == [*WARM_STEPS[: WARM.index(step.name) + 1], *UNDO_STEPS]
    first_back = stage.steps.contexts[stage.steps.ran.index("cancel_pass")]
    assert first_back.job.evidence == {"offer": "o1"}


@pytest.mark.parametrize("step", BEFORE_COMMIT, ids=lambda step: step.name)
def test_a_cancel_while_a_step_begins_to_wait_is_not_lost(stage: Stage, step: Step) -> None:
    """The person asks in the last moment before the job is given up."""
    begun(stage)
    stage.steps.parts[step.name] = [asks(stage, control.cancel, waits_for(OFFER))]
    stage.deliver()
    assert stage.job().state is State.CANCELLED


@pytest.mark.parametrize("step", AFTER_COMMIT, ids=lambda step: step.name)
def test_after_the_commit_point_a_cancel_is_refused_and_changes_nothing(stage: Stage, step: Step) -> None:
    """Even if it was asked for right before, and comes too late."""
    begun(stage)
    stage.steps.parts[step.name] = [asks(stage, control.cancel)]
    assert stage.play().state is State.DONE
    assert stage.steps.ran == WARM_STEPS


def test_a_cancelled_job_can_be_tried_again(stage: Stage) -> None:
    """From the beginning, as if it had never been."""
    begun(stage)
    stage.steps.parts["final_pass"] = [asks(stage, control.cancel)]
    assert stage.play().state is State.CANCELLED
    stage.steps.ran.clear()
    control.retry(JOB, stage.store)
    assert stage.play().state is State.DONE
    assert stage.steps.ran == WARM_STEPS


def test_a_cancel_turns_a_give_back_into_an_undo(stage: Stage) -> None:
    """The source is brought back and the copy discarded."""
    begun(stage)
    stage.steps.parts["final_pass"] = [fails_with(StopRefused("no"))]
    stage.steps.parts["restart_source"] = [asks(stage, control.cancel)]
    assert stage.play().state is State.CANCELLED
    assert stage.steps.ran[-6:] == [*GIVE_BACK_STEPS, *UNDO_STEPS]


def test_a_cancel_in_the_moment_in_which_a_job_parks_is_obeyed(stage: Stage) -> None:
    """The person was told that it goes back."""
    begun(stage)
    stage.steps.parts["full_pass"] = [
        asks(stage, control.cancel, fails_with(StopRefused("no"))),
    ]
    assert stage.play().state is State.CANCELLED


def test_a_cancel_in_the_moment_in_which_preflight_parks_is_obeyed(stage: Stage) -> None:
    """Though there is nothing to give back."""
    begun(stage)
    stage.steps.parts["check_target"] = [asks(stage, control.cancel, fails_with(NotTrusted("s2: no")))]
    assert stage.play().state is State.CANCELLED


PAUSABLE = [step for step in WARM.steps if WARM.index(step.name) < WARM.index("stop_source")]


@pytest.mark.parametrize("step", PAUSABLE, ids=lambda step: step.name)
def test_a_pause_is_obeyed_after_the_step_at_hand(stage: Stage, step: Step) -> None:
    """A resume goes on with the next step; each runs once. A job that is down by then is brought to its end first."""
    begun(stage)
    stage.steps.parts[step.name] = [asks(stage, control.pause)]
    job = stage.play()
    assert (job.state, job.blocked_on) == (State.PAUSED, "a person to resume it")
    assert stage.steps.ran == WARM_STEPS[: WARM.index(step.name) + 1]
    stage.let_time_pass()
    stage.deliver()
    assert stage.job().state is State.PAUSED, "nothing but a person lets it go on"
    control.resume(JOB, stage.store)
    assert stage.play().state is State.DONE
    assert stage.steps.ran == WARM_STEPS


@pytest.mark.parametrize("step", WARM.steps[WARM.index("stop_source") :], ids=lambda step: step.name)
def test_a_job_whose_instance_is_down_is_not_paused(stage: Stage, step: Step) -> None:
    """It is brought up first, and then there is nothing left to pause."""
    begun(stage)
    stage.steps.parts[step.name] = [asks(stage, control.pause)]
    assert stage.play().state is State.DONE
    assert stage.steps.ran == WARM_STEPS


def test_a_pause_of_a_job_with_an_operation_under_way_lets_it_end(stage: Stage) -> None:
    """Its step is finished; nobody would look after the operation otherwise."""
    begun(stage)
    stage.steps.parts["full_pass"] = [waits_for(OFFER, evidence={"offer": "o1"})]
    stage.deliver()
    control.pause(JOB, stage.store)
    job = stage.play()
    assert (job.state, job.step) == (State.PAUSED, "refresh_passes")


def test_a_pause_of_a_job_that_waits_for_a_slot_is_obeyed_at_once(stage: Stage) -> None:
    """It has nothing under way."""
    stored(a_plan(*many_moves(2), request=a_request(limits=Limits(per_source=1, per_target=1))), stage.store)
    stage.steps.parts["full_pass"] = [waits_for(OFFER, evidence={"offer": "o1"})]
    stage.deliver()
    assert stage.job("p1-2").blocked_on == "a transfer slot on server s1"
    control.pause("p1-2", stage.store)
    stage.deliver()
    assert stage.job("p1-2").state is State.PAUSED


def test_a_paused_job_can_be_cancelled(stage: Stage) -> None:
    """Without being resumed first."""
    begun(stage)
    stage.steps.parts["full_pass"] = [asks(stage, control.pause)]
    stage.play()
    control.cancel(JOB, stage.store)
    stage.deliver()
    assert stage.job().state is State.CANCELLED


def test_slots_hold_back_what_is_too_much_and_let_it_go_on(stage: Stage) -> None:
    """One transfer at a time: the second job is woken by the end of the first one's passes, without any delay."""
    stored(a_plan(*many_moves(2), request=a_request(limits=Limits(per_source=1, per_target=1))), stage.store)
    stage.steps.parts["full_pass"] = [waits_for(OFFER)]
    stage.deliver()
    assert [stage.job(f"p1-{n}").blocked_on for n in (1, 2)] == ["the pass", "a transfer slot on server s1"]
    stage.operations.complete("s1", Operation(id="o1", status_code=200))
    stage.deliver()
    assert [stage.job(f"p1-{n}").state for n in (1, 2)] == [State.DONE, State.DONE]


def test_a_cutover_takes_the_place_of_a_transfer(stage: Stage) -> None:
    """Which would make the downtime longer; it is woken by the end of the cutover, without any delay."""
    stored(a_plan(*many_moves(3), request=a_request(limits=Limits(per_source=2, per_target=2))), stage.store)
    passing = OperationRef(remote="s1", id="o9")
    stage.steps.parts["final_pass"] = [waits_for(OFFER)]
    stage.steps.parts["full_pass"] = [lambda _: Outcome.completed(), waits_for(passing)]
    stage.deliver()
    assert [stage.job(f"p1-{n}").blocked_on for n in (1, 2, 3)] == [
        "the pass",
        "the pass",
        "the cutovers on server s1, which go first",
    ]
    stage.operations.complete("s1", Operation(id="o1", status_code=200))
    stage.deliver()
    assert [stage.job(f"p1-{n}").state for n in (1, 2, 3)] == [State.DONE, State.WAITING, State.DONE]


def test_one_transfer_may_always_begin_beside_cutovers(stage: Stage) -> None:
    """So that an evacuation goes on whatever takes long in a cutover."""
    stored(a_plan(*many_moves(2), request=a_request(limits=Limits(per_source=2, per_target=2))), stage.store)
    stage.steps.parts["final_pass"] = [waits_for(OFFER)]
    stage.deliver()
    assert [stage.job(f"p1-{n}").state for n in (1, 2)] == [State.WAITING, State.DONE]


@pytest.mark.parametrize("fails", [StopRefused("no"), TransferFailed("s2: reset")])
def test_a_cutover_that_rests_does_not_go_first(stage: Stage, fails: HerderError) -> None:
    """Neither one that waits for a person nor one that waits for its next attempt."""
    stored(a_plan(*many_moves(3), request=a_request(limits=Limits(per_source=2, per_target=2))), stage.store)
    stage.steps.parts["stop_source"] = [fails_with(fails)]
    stage.steps.parts["full_pass"] = [lambda _: Outcome.completed(), waits_for(OFFER)]
    stage.deliver()
    assert stage.job("p1-1").state in (State.WAITING, State.PARKED)
    assert [stage.job(f"p1-{n}").state for n in (2, 3)] == [State.WAITING, State.DONE]


def test_a_faulty_job_does_not_keep_its_slots(stage: Stage) -> None:
    """While it waits for the next attempt, another one may use the server."""
    stored(a_plan(*many_moves(2), request=a_request(limits=Limits(per_source=1, per_target=1))), stage.store)
    stage.steps.parts["full_pass"] = [fails_with(TransferFailed("s2: reset"))]
    stage.deliver()
    assert stage.job("p1-1").state is State.WAITING
    assert stage.job("p1-2").state is State.DONE


@pytest.mark.parametrize("ends", [State.PARKED, State.CANCELLED, State.PAUSED, State.DONE])
def test_a_job_at_rest_holds_no_slot(stage: Stage, ends: State) -> None:
    """However it came to rest."""
    begun(stage)
    parts: dict[State, Part] = {
        State.PARKED: fails_with(StopRefused("no")),
        State.CANCELLED: asks(stage, control.cancel),
        State.PAUSED: asks(stage, control.pause),
        State.DONE: lambda _: Outcome.completed(),
    }
    stage.steps.parts["full_pass"] = [parts[ends]]
    assert stage.play().state is ends
    for resource in ("s1:transfer", "s2:transfer", "s1:cutover", "s2:cutover"):
        assert stage.store.acquire_slots("another", [(resource, 1)], SECOND) == ""


def test_who_lost_the_fence_stops_and_writes_nothing(stage: Stage) -> None:
    """A worker sleeps in the middle of a step, another finishes the job, and the first one wakes up."""
    begun(stage)

    def sleeps(ctx: Context) -> Outcome:
        stage.let_time_pass()
        assert stage.play().state is State.DONE
        with pytest.raises(FenceLost):
            ctx.confirm_fence()
        with pytest.raises(FenceLost):
            ctx.note(found="too late")
        return Outcome.completed(found="too late")

    stage.steps.parts["full_pass"] = [sleeps]
    stage.deliver()
    assert stage.job().state is State.DONE
    assert "found" not in stage.job().facts
    assert stage.told("step", "outcome").count(("full_pass", "completed")) == 1


def test_a_checkpoint_inside_a_step_is_found_by_the_next_worker(stage: Stage) -> None:
    """What was noted before the death is there."""
    begun(stage)

    def notes(ctx: Context) -> Outcome:
        ctx.note(evidence={"stop": "o1"}, down_at="2025-06-01T01:00:00+00:00")
        raise KeyboardInterrupt

    stage.steps.parts["stop_source"] = [notes]
    with pytest.raises(KeyboardInterrupt):
        stage.deliver()
    stage.let_time_pass()
    stage.deliver()
    second = stage.steps.contexts[stage.steps.ran.index("stop_source") + 1]
    assert second.job.evidence == {"stop": "o1"}
    assert second.job.facts["down_at"] == "2025-06-01T01:00:00+00:00"


def test_an_outage_of_redis_inside_a_step_is_no_attempt(stage: Stage) -> None:
    """It says nothing about the step: nothing is recorded, and the pump sends the job again."""
    begun(stage)
    stage.steps.parts["full_pass"] = [fails_with(RedisConnectionError("gone"))]
    stage.deliver()
    job = stage.job()
    assert (job.step, job.attempts, job.error) == ("full_pass", 0, None)
    assert stage.play().state is State.DONE


def test_a_wake_up_for_nobody_is_answered_with_nothing(stage: Stage) -> None:
    """A message may outlive its job."""
    stage.worker().advance("nobody-1")
    assert stage.steps.ran == []


def test_the_story_of_a_plan_can_be_read_in_its_events(stage: Stage) -> None:
    """Every attempt, with what it came to, what was waited for and what went wrong."""
    begun(stage)
    stage.steps.parts["check_source"] = [fails_with(ServerUnreachable("s1 does not answer"))]
    stage.steps.parts["check_target"] = [waits_for(OFFER)]
    stage.steps.parts["full_pass"] = [fails_with(StopRefused("no"))]
    stage.play()
    assert stage.told("step", "outcome", "state", "blocked_on", "error") == [
        ("check_source", "retry", "waiting", "s1 does not answer", "s1 does not answer"),
        ("check_source", "completed", "running", "", ""),
        ("check_target", "wait", "waiting", "the pass", ""),
        ("check_target", "completed", "running", "", ""),
        ("full_pass", "failed", "running", "", "no"),
        ("cancel_pass", "completed", "running", "", ""),
        ("restart_source", "completed", "parked", "", ""),
    ]


def test_many_jobs_are_carried_out_by_several_workers(stage: Stage) -> None:
    """With tight limits, faults here and there, and wake-ups answered twice: all are done, each step once."""
    moves = tuple(a_move(f"c{n}", target=f"s{2 + n % 3}", method=list(Method)[n % 2]) for n in range(12))
    stored(a_plan(*moves, request=a_request(limits=Limits(per_source=2, per_target=1, cutovers=1))), stage.store)
    stage.steps.parts["full_pass"] = [fails_with(TransferFailed("reset"))] * 4
    stage.steps.parts["start_target"] = [fails_with(ServerUnreachable("away"))] * 4
    workers = [stage.worker() for _ in range(3)]
    jobs: tuple[Job, ...] = ()
    for _ in range(60):
        for number, (_, job_id) in enumerate(stage.wire.take()):
            workers[number % 3].advance(job_id)
            workers[(number + 1) % 3].advance(job_id)
        jobs = stage.store.jobs("p1")
        if all(job.has_ended for job in jobs):
            break
        if not stage.wire.wake_ups():
            for job in jobs:
                stage.wire.let_pass(job.id)
            stage.store.pump()
    assert {job.state for job in jobs} == {State.DONE}
    completed = [event for event in stage.told("job", "step", "outcome") if event[2] == "completed"]
    expected = [(job.id, step.name, "completed") for job in jobs for step in FORWARD[job.move.method].steps]
    assert sorted(completed) == sorted(expected)
