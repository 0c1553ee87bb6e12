"""A move within a cluster: which name each side has when, and how each is found whatever it is called."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from common.domain.instance import GUARD_DEVICE, Instance
from common.domain.itinerary import COLD, WARM, WITHIN_CLUSTER
from common.domain.job import State
from common.domain.plan import Method
from common.domain.recovery import Guard, Traces, continued
from tests.builders import a_job, a_move_within_cluster, an_instance

JOB = a_job(move=a_move_within_cluster())
COPY, RETIRED = "web1-copy-p1-1", "web1-retired-p1-1"


def on(**members: str) -> Mapping[str, Instance]:
    """Instances by name, given as ``name=member``."""
    names = {name.replace("_", "-"): member for name, member in members.items()}
    return {name: an_instance(name, location=member) for name, member in names.items()}


@pytest.mark.parametrize("method", [Method.WARM, Method.COLD])
def test_the_copy_takes_the_name_right_after_the_commit_point(method: Method) -> None:
    """Not before it, so that no way back has to rename; and before the start, for which it needs it."""
    way, plain = WITHIN_CLUSTER[method], {Method.WARM: WARM, Method.COLD: COLD}[method]
    names = [step.name for step in way.steps]
    assert names[names.index("hand_over") + 1 : names.index("start_target")] == ["take_name"]
    assert [step for step in way.steps if step.name != "take_name"] == list(plain.steps)


@pytest.mark.parametrize(
    ("there", "source", "copy"),
    [
        (on(web1="c2"), "web1", None),
        (on(web1="c2", web1_copy_p1_1="c3"), "web1", COPY),
        (on(web1_retired_p1_1="c2", web1_copy_p1_1="c3"), RETIRED, COPY),
        (on(web1_retired_p1_1="c2", web1="c3"), RETIRED, "web1"),
        (on(web1="c3"), None, "web1"),
        (on(), None, None),
    ],
    ids=["before", "passes", "between the names", "moved", "source deleted", "nothing"],
)
def test_the_members_tell_which_side_is_which(
    there: Mapping[str, Instance], source: str | None, copy: str | None
) -> None:
    """At every moment of the exchange of names."""
    sides = (JOB.source_among(there.get), JOB.copy_among(there.get))
    assert tuple(side.name if side else None for side in sides) == (source, copy)


def test_names_stay_within_what_a_host_may_be_called() -> None:
    """63 characters, also of an instance that has them all, and in a plan of thousands."""
    long = replace(JOB, id="k3x9wq-12345", move=a_move_within_cluster("w" * 63))
    assert max(len(long.copy_name), len(long.retired_name)) <= 63


def test_between_servers_both_sides_have_the_name() -> None:
    """Whatever the servers call themselves."""
    plain = a_job()
    assert (plain.copy_name, plain.retired_name) == ("web1", "web1")
    assert plain.source_among(on(web1="").get) == plain.copy_among(on(web1="").get)


def test_a_lost_record_goes_on_with_the_names() -> None:
    """The guard says that it was handed over; nobody knows how far the names are, so they are looked at."""
    guarded = {GUARD_DEVICE: {"type": "unix-char"}}
    marks = {"user.herder.job": "p1-1"}
    source = an_instance(RETIRED, status="Stopped", config=marks, devices=guarded, location="c2")
    copy = an_instance(COPY, status="Stopped", config=marks, devices=guarded, location="c3")
    found = continued(JOB, Traces(source=source, copy=copy, guard=Guard(state="handed-over")))
    assert found
    assert (found.itinerary, found.step) == ("warm_within_cluster", "take_name")


def test_it_is_brought_back_as_between_servers() -> None:
    """Whatever the sides are called then."""
    back = replace(JOB, state=State.DONE, step="drop_snapshots").brought_back()
    assert (back.state, back.itinerary, back.step) == (State.QUEUED, "bring_back", "stop_target")
