"""The itineraries as tables: what every one of them must keep to."""

import pytest

from common.domain.itinerary import (
    COLD,
    COPY,
    FORWARD,
    GIVE_BACK,
    ITINERARIES,
    REFRESH,
    RESUME_AT,
    UNDO,
    WARM,
    Itinerary,
    Phase,
    Slot,
)
from common.domain.plan import Method
from common.messages import QUEUES
from workers.steps.registry import STEPS

BOTH_WAYS = sorted(ITINERARIES.values(), key=lambda itinerary: itinerary.name)


def test_every_step_has_a_function_and_every_function_is_a_step() -> None:
    """A step without a function would park every job; a function without a step is dead."""
    assert {step.name for itinerary in ITINERARIES.values() for step in itinerary.steps} == set(STEPS)


def test_every_method_has_an_itinerary_and_a_place_to_resume() -> None:
    """The place to resume is a step of that itinerary, before the commit point. Nothing goes live."""
    assert set(FORWARD) == set(RESUME_AT) == set(Method) - {Method.LIVE}
    for method, step in RESUME_AT.items():
        commit = next(s.name for s in FORWARD[method].steps if s.commit)
        assert FORWARD[method].index(step) < FORWARD[method].index(commit)


def test_itineraries_are_found_by_their_own_name() -> None:
    """A job's record holds the name only."""
    assert all(itinerary.name == name for name, itinerary in ITINERARIES.items())


@pytest.mark.parametrize("itinerary", [WARM, COLD], ids=lambda itinerary: itinerary.name)
def test_a_way_forward_has_exactly_one_commit_point(itinerary: Itinerary) -> None:
    """It is hand_over: what follows starts the target, what precedes it can be undone."""
    assert [step.name for step in itinerary.steps if step.commit] == ["hand_over"]


def test_a_copy_never_stops_its_source_and_can_be_taken_away_until_it_is_released() -> None:
    """It is looked at before; after that it is its owner's."""
    names = [step.name for step in COPY.steps]
    assert [step.name for step in COPY.steps if step.commit] == ["release_copy"]
    assert names.index("verify_copy") < names.index("release_copy")
    assert not {"stop_source", "hand_over", "start_target", "retire_source"} & set(names)


def test_a_refresh_keeps_what_the_copy_was_until_the_new_one_is_verified_and_free() -> None:
    """Before the commit point it can be put back; it is removed by a step of its own, after it."""
    order = ["claim_copy", "keep_copy", "refresh_copy", "verify_copy", "release_copy", "drop_kept"]
    assert [step.name for step in REFRESH.steps if step.name in order] == order
    assert [step.name for step in REFRESH.steps if step.commit] == ["release_copy"]


@pytest.mark.parametrize("itinerary", [UNDO, GIVE_BACK], ids=lambda itinerary: itinerary.name)
def test_a_way_back_has_no_commit_point_and_needs_no_slot(itinerary: Itinerary) -> None:
    """Bringing an instance back never waits for anything but its servers."""
    assert not any(step.commit or step.slot for step in itinerary.steps)
    assert {step.phase for step in itinerary.steps} == {Phase.UNDO}


@pytest.mark.parametrize("itinerary", BOTH_WAYS, ids=lambda itinerary: itinerary.name)
def test_no_step_comes_twice(itinerary: Itinerary) -> None:
    """The step's name is the checkpoint."""
    names = [step.name for step in itinerary.steps]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("itinerary", [WARM, COLD], ids=lambda itinerary: itinerary.name)
def test_the_source_stops_before_the_last_pass_and_is_retired_after_the_verification(itinerary: Itinerary) -> None:
    """At no time two copies run, and a verified target is the only proof on which the source is retired."""
    order = [step.name for step in itinerary.steps]
    last_pass = "final_pass" if itinerary is WARM else "full_pass"
    wanted = ["stop_source", last_pass, "hand_over", "start_target", "verify_target", "retire_source"]
    assert [name for name in order if name in wanted] == wanted


def test_passes_need_transfer_slots_and_downtime_needs_cutover_slots() -> None:
    """Cutovers never wait behind transfers: a warm instance is down under a cutover slot only."""
    slots = {step.name: step.slot for step in WARM.steps}
    assert {name for name, slot in slots.items() if slot is Slot.TRANSFER} == {"full_pass", "refresh_passes"}
    down = {"stop_source", "final_pass", "hand_over", "start_target", "verify_target"}
    assert {name for name, slot in slots.items() if slot is Slot.CUTOVER} == down


def test_every_phase_has_its_queue_and_those_with_an_instance_down_come_first() -> None:
    """The order is that in which workers declare them."""
    assert set(QUEUES) == set(Phase)
    assert len(QUEUES) == len(Phase)
    assert set(QUEUES[:2]) == {Phase.CUTOVER, Phase.UNDO}


def test_steps_are_found_by_name_and_followed_by_the_next() -> None:
    """After the last step there is none; an unknown name is an error that names the itinerary."""
    assert WARM.step("final_pass").phase is Phase.CUTOVER
    following = WARM.after("check_target")
    assert following
    assert following.name == "full_pass"
    assert WARM.after("drop_snapshots") is None
    with pytest.raises(KeyError, match="itinerary cold has no step final_pass"):
        COLD.step("final_pass")
