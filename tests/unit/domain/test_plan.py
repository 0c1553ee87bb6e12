"""Plans: the names of jobs, what identifies an instance, and the fingerprint that tells drift."""

from typing import Any

import pytest

from common.domain.instance import Instance
from common.domain.plan import Move, fingerprint, identity_of
from tests.builders import NOW, a_move, a_plan, an_instance, many_moves

MOVES = (a_move("web1"), a_move("db1"))
SEEN = {("default", "web1"): an_instance("web1"), ("default", "db1"): an_instance("db1")}


def print_with(instance: Instance | None, moves: tuple[Move, ...] = MOVES) -> str:
    """The fingerprint when ``web1`` is like this, or gone."""
    seen = {key: other for key, other in SEEN.items() if key[1] != "web1"}
    return fingerprint(seen | ({("default", "web1"): instance} if instance else {}), moves)


def test_jobs_are_named_after_their_plan_and_counted_from_one() -> None:
    """Everything created on servers derives from this name."""
    plan = a_plan(*many_moves(2), id="k3x9")
    assert [plan.job_id(number) for number in range(2)] == ["k3x9-1", "k3x9-2"]


def test_an_instance_is_identified_by_its_uuid_or_its_creation() -> None:
    """Old servers know no volatile.uuid; an instance made anew under the same name has another creation time."""
    assert identity_of(an_instance("web1")) == "uuid-of-web1"
    assert identity_of(Instance(name="web1", created_at=NOW)) == NOW.isoformat()


def test_the_same_instances_have_the_same_fingerprint() -> None:
    """The order in which they were seen does not matter, and what does not matter to a move does not either."""
    assert fingerprint(dict(reversed(SEEN.items())), MOVES) == fingerprint(SEEN, MOVES)
    assert print_with(an_instance("web1", etag="other", config={"volatile.last_state.power": "RUNNING"})) == (
        fingerprint(SEEN, MOVES)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"volatile.uuid": "another"}},
        {"status": "Stopped"},
        {"profiles": ("default", "ssd")},
        {"devices": {"data": {"type": "disk", "pool": "default", "source": "v1", "path": "/data"}}},
    ],
    ids=["made anew", "stopped", "other profiles", "another device"],
)
def test_what_a_plan_relied_on_changes_its_fingerprint(change: dict[str, Any]) -> None:
    """Identity, run state, profiles and local devices."""
    assert print_with(an_instance("web1", **change)) != fingerprint(SEEN, MOVES)


def test_a_gone_instance_and_another_target_change_the_fingerprint() -> None:
    """So does a move onto another name."""
    before = fingerprint(SEEN, MOVES)
    assert print_with(None) != before
    assert fingerprint(SEEN, (a_move("web1", target="s3"), MOVES[1])) != before
    assert fingerprint(SEEN, (a_move("web1", name="web2"), MOVES[1])) != before
