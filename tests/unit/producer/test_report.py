"""The report: what every face says about a plan and its jobs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from common.domain.aside import Trouble
from common.domain.job import Job, Pass, State
from common.domain.plan import Plan, Refusal
from common.store.codec import to_plain
from producer.report import Progress, Report, make_report
from tests.builders import NOW, a_finding, a_job, a_move, a_plan, a_running_job, an_error, many_moves

LATER = NOW + timedelta(minutes=10)

#: What scripts may rely on.
PROMISED = {"plan", "state", "started_at", "finished_at", "totals", "jobs"}
PROMISED_TOTALS = {"jobs", "done", "failed", "parked", "bytes", "downtime_p50_s", "downtime_p99_s"}
PROMISED_OF_A_JOB = {
    "instance",
    "project",
    "source",
    "target",
    "method",
    "state",
    "phase",
    "step",
    "blocked_on",
    "error",
    "attempts",
    "passes",
    "bytes",
    "downtime_s",
    "started_at",
    "finished_at",
}


def jobs_of(plan: Plan, *changes: dict[str, Any]) -> tuple[Job, ...]:
    """The jobs of the plan's moves with these changes, one for each."""
    return tuple(replace(Job.of_move(plan, number, NOW), **change) for number, change in enumerate(changes))


def report_of(plan: Plan, jobs: Sequence[Job], **progress: Progress) -> Report:
    """The report as it is ten minutes after the start; progress is given for the jobs of plan ``p1`` as ``p1_1``."""
    return make_report(plan, jobs, {name.replace("_", "-"): each for name, each in progress.items()}, LATER)


def report_of_states(*states: State) -> Report:
    """The report of a plan whose jobs are in these states."""
    plan = a_plan(*many_moves(len(states)))
    ended = {State.DONE, State.PARKED, State.CANCELLED}
    changes = [
        {"state": s, "finished_at": LATER if s in ended else None, "error": an_error() if s is State.PARKED else None}
        for s in states
    ]
    return report_of(plan, jobs_of(plan, *changes))


def done_in(seconds: float) -> dict[str, Any]:
    """A job that is done and was down for so long."""
    up = NOW + timedelta(seconds=seconds)
    return {"state": State.DONE, "facts": {"down_at": NOW.isoformat(), "up_at": up.isoformat()}, "finished_at": up}


def test_its_json_has_the_promised_keys() -> None:
    """Scripts rely on them; what is added later does no harm."""
    plan = a_plan()
    error = an_error("out_of_space")
    plain = json.loads(json.dumps(to_plain(report_of(plan, [a_job(state=State.PARKED, error=error)]))))
    assert plain.keys() >= PROMISED
    assert plain["totals"].keys() >= PROMISED_TOTALS
    assert plain["jobs"][0].keys() >= PROMISED_OF_A_JOB
    assert plain["jobs"][0]["error"] == {"code": error.code, "message": error.message, "hint": error.hint}


def test_a_job_is_reported_with_all_that_it_did() -> None:
    """Attempts are the failed ones; bytes are those of all passes."""
    passes = (
        Pass(number=0, kind="full", took=timedelta(seconds=60), sent=1000),
        Pass(number=1, kind="final", took=timedelta(seconds=1), sent=24),
    )
    job = a_running_job(
        "retire_source",
        move=a_move(project="shop", name="web2"),
        passes=passes,
        total_attempts=3,
        facts={"down_at": NOW.isoformat(), "up_at": (NOW + timedelta(milliseconds=1234)).isoformat()},
    )
    (reported,) = report_of(a_plan(job.move), [job]).jobs
    assert (reported.job, reported.instance, reported.project, reported.name) == ("p1-1", "web1", "shop", "web2")
    assert (reported.source, reported.target, reported.method) == ("s1", "s2", "warm")
    assert (reported.state, reported.phase, reported.step) == ("running", "cleanup", "retire_source")
    assert (reported.attempts, reported.passes, reported.bytes) == (3, 2, 1024)
    assert reported.downtime_s == 1.234
    assert (reported.started_at, reported.finished_at) == (NOW, None)


def test_the_pass_at_hand_counts_as_far_as_it_is() -> None:
    """Its bytes are added to those of the finished passes, of the job and of the plan."""
    job = a_running_job("full_pass", passes=(Pass(number=0, kind="full", took=timedelta(1), sent=1000),))
    report = report_of(a_plan(), [job], p1_1=Progress(sent=500, rate=100))
    assert (report.jobs[0].bytes, report.jobs[0].rate) == (1500, 100)
    assert report.totals.bytes == 1500


@pytest.mark.parametrize(
    ("state", "shown"), [(State.WAITING, "a slot"), (State.PAUSED, "a slot"), (State.RUNNING, ""), (State.DONE, "")]
)
def test_only_a_job_that_waits_is_blocked(state: State, shown: str) -> None:
    """What it waited for earlier is of no interest."""
    job = a_job("full_pass", state=state, blocked_on="a slot")
    assert report_of(a_plan(), [job]).jobs[0].blocked_on == shown


def test_a_done_job_has_no_error() -> None:
    """Faults on the way are forgotten when all went well."""
    done = a_job("drop_snapshots", state=State.DONE, error=an_error())
    assert report_of(a_plan(), [done]).jobs[0].error is None


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([State.QUEUED, State.QUEUED], "running"),
        ([State.DONE, State.RUNNING], "running"),
        ([State.PARKED, State.WAITING], "running"),
        ([State.PAUSED, State.WAITING], "running"),
        ([State.PAUSED, State.DONE], "paused"),
        ([State.PAUSED, State.PARKED], "paused"),
        ([State.DONE, State.DONE], "done"),
        ([State.DONE, State.PARKED], "failed"),
        ([State.DONE, State.CANCELLED], "failed"),
    ],
)
def test_the_state_of_a_plan_is_that_of_its_jobs_together(states: list[State], expected: str) -> None:
    """It runs as long as anything moves by itself; it is done if all are."""
    report = report_of_states(*states)
    assert report.state == expected
    assert report.has_ended is (expected in ("done", "failed"))


def test_a_plan_that_is_submitted_half_way_is_running() -> None:
    """Its producer died; `herder resume` creates the rest."""
    plan = a_plan(*many_moves(2))
    report = report_of(plan, jobs_of(plan, {"state": State.DONE, "finished_at": NOW}))
    assert (report.state, report.finished_at) == ("running", None)
    assert report.totals.jobs == 2


def test_a_plan_without_moves_is_empty_and_has_ended() -> None:
    """There is nothing to wait for."""
    report = report_of(replace(a_plan(), moves=()), [])
    assert (report.state, report.has_ended) == ("empty", True)
    assert report.totals.jobs == 0


def test_totals_count_how_jobs_ended() -> None:
    """Failed are those that ended otherwise than done; parked those of them that wait for a person."""
    totals = report_of_states(
        State.DONE, State.DONE, State.PARKED, State.CANCELLED, State.RUNNING, State.QUEUED, State.PAUSED
    ).totals
    assert (totals.jobs, totals.done, totals.failed, totals.parked) == (7, 2, 2, 1)


@pytest.mark.parametrize(
    ("downtimes", "p50", "p99"),
    [
        ([], None, None),
        ([3.0], 3.0, 3.0),
        ([1.0, 3.0], 2.0, 2.98),
        ([5.0, 1.0, 3.0], 3.0, 4.96),
        ([float(n) for n in range(101)], 50.0, 99.0),
    ],
    ids=["none", "one", "two", "three", "a hundred and one"],
)
def test_downtimes_are_told_as_percentiles(downtimes: list[float], p50: float | None, p99: float | None) -> None:
    """In seconds, over all jobs that were down and are up again; between two values they are interpolated."""
    plan = a_plan(*many_moves(len(downtimes) + 1))
    jobs = jobs_of(plan, *[done_in(seconds) for seconds in downtimes], {"facts": {"down_at": NOW.isoformat()}})
    totals = report_of(plan, jobs).totals
    assert (totals.downtime_p50_s, totals.downtime_p99_s) == (p50, p99)


def test_a_plan_runs_from_its_first_start_to_its_last_finish() -> None:
    """As long as one job has not ended, there is no finish."""
    plan = a_plan(*many_moves(3))
    first = {"state": State.DONE, "started_at": NOW + timedelta(seconds=5), "finished_at": NOW + timedelta(seconds=90)}
    second = {"state": State.DONE, "started_at": NOW + timedelta(seconds=1), "finished_at": NOW + timedelta(seconds=60)}
    report = report_of(plan, jobs_of(plan, first, second, first))
    assert report.started_at == NOW + timedelta(seconds=1)
    assert report.finished_at == NOW + timedelta(seconds=90)
    assert report_of(plan, jobs_of(plan, first, second, {})).finished_at is None


def test_refused_instances_are_reported_with_all_reasons() -> None:
    """And with what to do about each."""
    stays = Refusal(instance="db1", source="s1", findings=(a_finding("pool"), a_finding("profile")))
    (refusal,) = report_of(a_plan(refusals=(stays,)), [a_job()]).refused
    assert (refusal.instance, refusal.source) == ("db1", "s1")
    assert refusal.reasons == ("told as pool", "told as profile")
    assert refusal.hints == ("mend pool", "mend profile")


def test_servers_that_are_set_aside_are_told_if_a_job_waits_for_them() -> None:
    """On either side; not for jobs that have ended, and not those of other plans."""
    plan = a_plan(*many_moves(1), a_move("c2", source="s3", target="s4"))
    away = [
        Trouble(remote=remote, failures=3, since=NOW, reason=f"{remote}: no answer in time", is_set_aside=True)
        for remote in ("s1", "s2", "s4", "s9")
    ]
    jobs = jobs_of(plan, {}, {"state": State.DONE})
    told = make_report(plan, jobs, {}, LATER, away).set_aside
    assert [(each.server, each.since, each.reason) for each in told] == [
        ("s1", NOW, "s1: no answer in time"),
        ("s2", NOW, "s2: no answer in time"),
    ]
    assert str(away[0]) == "server s1 unreachable since 2025-06-01 01:00:00 UTC"


def test_the_share_grows_with_the_steps_and_stays_on_the_way_back() -> None:
    """Going back does not look like a new start; done is all of it."""
    shares = [
        report_of(a_plan(), [a_running_job(step)]).jobs[0].share
        for step in ("check_source", "full_pass", "final_pass", "retire_source")
    ]
    assert shares == sorted(shares)
    assert shares[0] == 0
    back = a_running_job("restart_source", itinerary="give_back", reached="final_pass")
    assert report_of(a_plan(), [back]).jobs[0].share == shares[2]
    assert report_of(a_plan(), [a_job("drop_snapshots", state=State.DONE)]).jobs[0].share == 1


def test_wrecks_are_told_to_the_end() -> None:
    """Somebody has to remove them by hand."""
    job = a_job("drop_snapshots", state=State.DONE, facts={"wrecks": ["s2:web1-wreck-p1-1"]})
    (note,) = report_of(a_plan(), [job]).jobs[0].notes
    assert "s2:web1-wreck-p1-1" in note


def test_the_end_of_a_job_is_estimated_by_how_long_others_took() -> None:
    """The median of those that are done, less the time that it has had; nothing is guessed before one is done."""
    plan = a_plan(*many_moves(4))

    def took(minutes: int) -> dict[str, Any]:
        return {"state": State.DONE, "started_at": NOW, "finished_at": NOW + timedelta(minutes=minutes)}

    running = {"state": State.RUNNING, "started_at": NOW}
    report = report_of(plan, jobs_of(plan, took(12), took(40), took(14), running))
    assert report.jobs[3].eta_s == 4 * 60
    assert [job.eta_s for job in report.jobs[:3]] == [None, None, None]
    assert report_of(plan, jobs_of(plan, running, running, {}, {})).jobs[0].eta_s is None


def test_a_late_job_is_estimated_to_end_now() -> None:
    """Not in the past."""
    plan = a_plan(*many_moves(2))
    quick = {"state": State.DONE, "started_at": NOW, "finished_at": NOW + timedelta(minutes=1)}
    report = report_of(plan, jobs_of(plan, quick, {"state": State.RUNNING, "started_at": NOW}))
    assert report.jobs[1].eta_s == 0


def test_the_end_of_a_plan_is_estimated_by_the_steps_that_are_done() -> None:
    """Half of the steps in ten minutes: ten more. An ended plan and one that has not begun have no estimate."""
    plan = a_plan(*many_moves(2))
    done = {"state": State.DONE, "started_at": NOW, "finished_at": LATER}
    assert report_of(plan, jobs_of(plan, done, {})).eta_s == 600
    assert report_of(plan, jobs_of(plan, done, done)).eta_s is None
    assert report_of(plan, jobs_of(plan, {}, {})).eta_s is None
