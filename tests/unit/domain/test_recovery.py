"""Where a job stands, told by the servers alone."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.instance import GUARD_DEVICE, Instance
from common.domain.job import Job, State
from common.domain.plan import Method
from common.domain.recovery import Guard, Traces, continued
from tests.builders import a_job, an_instance

GUARDED = {GUARD_DEVICE: {"type": "unix-char"}}
SINCE = "2026-11-22T10:00:00+00:00"


def noted(**changes: Any) -> Job:
    """The job as its memo tells it."""
    return a_job("check_target", **{"facts": {"was_running": True}, **changes})


def source(status: str = "Running", *, state: str = "", **changes: Any) -> Instance:
    """The source with the job's marks."""
    return an_instance(status=status, config={"user.herder.job": "p1-1", "user.herder.state": state}, **changes)


def copy(state: str = "complete", number: int = 2, **changes: Any) -> Instance:
    """The copy with the job's marks, guarded if not told otherwise."""
    marks = {"user.herder.job": "p1-1", "user.herder.state": state, "user.herder.pass": str(number)}
    return an_instance(**{"status": "Stopped", "config": marks, "devices": GUARDED, **changes})


def at(traces: Traces, job: Job | None = None) -> tuple[str, str]:
    """Itinerary and step at which the job goes on."""
    found = continued(job or noted(), traces)
    assert found is not None
    assert found.state is State.QUEUED
    return found.itinerary, found.step


def test_without_a_copy_it_begins_again() -> None:
    """Nothing of it was on the target yet."""
    assert at(Traces(source=source(), copy=None)) == ("warm", "check_source")


def test_a_complete_copy_is_taken_over_by_the_full_pass_which_sends_nothing() -> None:
    """The numbers go on after those of the copy."""
    traces = Traces(source=source(), copy=copy())
    assert at(traces) == ("warm", "full_pass")
    found = continued(noted(), traces)
    assert found
    assert found.facts["next_pass"] == 3


def test_a_broken_refresh_is_gone_on_with_and_a_broken_full_pass_begun_again() -> None:
    """What was whole before the refresh is worth keeping."""
    assert at(Traces(source=source(), copy=copy("receiving", 1))) == ("warm", "refresh_passes")
    assert at(Traces(source=source(), copy=copy("receiving", 0))) == ("warm", "full_pass")


@pytest.mark.parametrize(
    "stands", [source("Stopped", devices=GUARDED), source("Running", devices=GUARDED), source("Stopped")]
)
def test_in_the_cutover_the_source_is_brought_up_first(stands: Instance) -> None:
    """Then the passes go on; how long it has been down is told by the guard."""
    found = continued(noted(), Traces(source=stands, copy=copy(), guard=Guard(state="guards", since=SINCE)))
    assert found
    assert (found.itinerary, found.step, found.undo_then) == ("give_back", "cancel_pass", "resume")
    assert found.facts["down_at"] == SINCE


def test_after_the_hand_over_it_only_goes_forward() -> None:
    """The guard says so; and where the guard is gone, a copy without one says the same."""
    stopped = source("Stopped", devices=GUARDED)
    assert at(Traces(source=stopped, copy=copy(), guard=Guard(state="handed-over"))) == ("warm", "start_target")
    assert at(Traces(source=stopped, copy=copy("handed-over", devices={}))) == ("warm", "start_target")


def test_a_retired_or_deleted_source_leaves_only_the_snapshots() -> None:
    """And nothing at all once the target has lost its marks."""
    retired = source("Stopped", state="retired", devices=GUARDED)
    running = copy("handed-over", devices={}, status="Running")
    for left in (retired, None):
        assert at(Traces(source=left, copy=running)) == ("warm", "drop_snapshots")
        assert continued(noted(), Traces(source=left, copy=an_instance())) is None


def test_a_cold_copy_is_never_trusted() -> None:
    """Its source may have run since."""
    cold = noted(method=Method.COLD, facts={"was_running": False})
    found = continued(cold, Traces(source=source("Stopped"), copy=copy(number=4)))
    assert found
    assert (found.step, found.facts["whole_from"]) == ("stop_source", 5)


def test_marks_of_another_job_do_not_count() -> None:
    """The copy of somebody else's job is not ours to go on from."""
    others = copy(config={"user.herder.job": "p9-9"})
    assert at(Traces(source=source(), copy=others)) == ("warm", "check_source")


def test_a_copy_is_looked_at_by_its_full_pass_until_it_is_released() -> None:
    """Its source tells nothing: it was never marked."""
    job = replace(noted(), move=replace(noted().move, method=Method.COPY))
    untouched = an_instance("web1")
    copied = [copy("receiving", 0), copy("complete", 0)]
    assert [at(Traces(source=untouched, copy=each), job) for each in copied] == [("copy", "full_pass")] * 2
    released = replace(copied[1], devices={}, expanded_devices={})
    assert at(Traces(source=None, copy=released), job) == ("copy", "drop_snapshots")
    assert continued(job, Traces(source=untouched, copy=None)) is None


def test_a_refresh_goes_on_from_what_it_has_kept_until_its_copy_is_free() -> None:
    """Also when the copy itself is not there: it is being made anew, or what was kept is being put back."""
    job = replace(noted(), move=replace(noted().move, method=Method.REFRESH))
    guarded = [copy("claimed", 0), copy("receiving", 1), copy("complete", 1), None]
    untouched = an_instance("web1")
    assert [at(Traces(source=untouched, copy=each), job) for each in guarded] == [("refresh", "claim_copy")] * 4
    released = replace(copy("complete", 1), devices={}, expanded_devices={})
    assert at(Traces(source=None, copy=released), job) == ("refresh", "drop_kept")
