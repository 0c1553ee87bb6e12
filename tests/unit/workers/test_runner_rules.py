"""The runner's rules that need no store: delays, permits and the claims at hand."""

from dataclasses import replace

import pytest

from common.domain.itinerary import ITINERARIES, Phase, Slot, Step
from common.domain.plan import Limits, Method, Move
from common.store.jobs import Claim
from tests.builders import a_job, a_move
from workers.runner import HeldJobs, needed_servers, retry_delay, slots_of

LIMITS = Limits(per_source=3, per_target=5, cutovers=7)
JOB = a_job(move=a_move(source="s1", target="s2"), limits=LIMITS)
ALL_STEPS = {step.name: step for itinerary in ITINERARIES.values() for step in itinerary.steps}


def test_delays_grow_and_stay_below_half_a_minute() -> None:
    """The first is about a second, no two jobs wait exactly as long, and the greatest is 31 s."""
    delays = [retry_delay(attempts).total_seconds() for attempts in range(40)]
    assert 1 <= delays[0] <= 3
    assert delays[3] > delays[0]
    assert max(delays) <= 31
    assert min(delays[10:]) >= 30
    assert len({retry_delay(3) for _ in range(10)}) > 1


@pytest.mark.parametrize("step", ALL_STEPS.values(), ids=lambda step: step.name)
def test_a_step_needs_a_permit_on_both_servers_or_none(step: Step) -> None:
    """The limits are those of the job's plan; a cutover has its own."""
    found = slots_of(JOB, step)
    match step.slot:
        case Slot.TRANSFER:
            assert found == [("s1:transfer", 3), ("s2:transfer", 5)]
        case Slot.CUTOVER:
            assert found == [("s1:cutover", 7), ("s2:cutover", 7)]
        case None:
            assert found == []


@pytest.mark.parametrize("step", ALL_STEPS.values(), ids=lambda step: step.name)
def test_to_give_an_instance_back_takes_its_source_alone(step: Step) -> None:
    """Everything else waits as long as either server is set aside."""
    itinerary = next(each.name for each in ITINERARIES.values() if step in each.steps)
    job = a_job(step.name, itinerary=itinerary, move=a_move(source="s1", target="s2"))
    alone = step.name in {"cancel_pass", "restart_source", "end_hook"}
    assert needed_servers(job) == (("s1",) if alone else ("s1", "s2"))
    assert needed_servers(replace(job, facts={"quiet": []})) == ("s1",)


@pytest.mark.parametrize(
    ("move", "server", "limit"),
    [
        (a_move(source="s1", target="/shelf", method=Method.EXPORT), "s1", 3),
        (a_move(source="s3://shelf/x", target="s2", method=Method.IMPORT), "s2", 5),
    ],
    ids=["export", "import"],
)
def test_an_archive_is_no_server(move: Move, server: str, limit: int) -> None:
    """An export and an import wait for their one server, and for a permit on it, and for no other."""
    job = a_job(move=move, limits=LIMITS)
    assert needed_servers(job) == (server,)
    transfers = [step for step in job.forward.steps if step.slot is Slot.TRANSFER]
    assert transfers
    assert all(slots_of(job, step) == [(f"{server}:transfer", limit)] for step in transfers)


def test_a_job_at_rest_holds_no_permit_for_the_way_back() -> None:
    """Nothing may keep an instance from being brought back."""
    assert all(slots_of(JOB, step) == [] for step in ALL_STEPS.values() if step.phase is Phase.UNDO)


def test_a_claim_is_held_exactly_as_long_as_its_block_runs() -> None:
    """Also if the block ends with an exception: a lease must not be prolonged for a job that nobody works on."""
    held = HeldJobs()
    claim = Claim(job=JOB, owner="me", version=1, control="")
    with held.hold(claim):
        assert held.snapshot() == [claim]
    assert held.snapshot() == []

    with pytest.raises(TimeoutError), held.hold(claim):
        raise TimeoutError
    assert held.snapshot() == []
