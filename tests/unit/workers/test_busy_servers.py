"""What is refused only because somebody else is at it is tried again, and nobody is asked to act."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.domain.errors import PreconditionFailed, ServerBusy, ServerRefused
from common.domain.fleet import Profile
from common.domain.operation import Operation
from common.domain.plan import Creation, Thing
from tests.builders import a_job, an_instance
from workers.steps import cleanup, creating
from workers.steps.context import Context
from workers.steps.marks import snapshot_name

SENT = "Failed to run: btrfs property set -f -ts /x ro false: exit status 1 (ERROR: Could not set subvolume flags: "


@pytest.mark.parametrize(
    ("error", "raised"),
    [(f"{SENT}Operation not permitted)", ServerBusy), (f"{SENT}Invalid argument)", ServerRefused)],
    ids=["being sent", "broken"],
)
def test_a_snapshot_that_is_being_sent_is_removed_later(error: str, raised: type[Exception]) -> None:
    """A target that died leaves its source sending for minutes."""
    job = a_job()
    ended = Operation(id="o1", status_code=400, error=error)
    ctx = SimpleNamespace(job=job, settle=lambda *_, **__: ended, forget=lambda *_: None)
    snapshots = [SimpleNamespace(name=snapshot_name(job, 0))]
    client = SimpleNamespace(remote="s1", snapshots=lambda *_, **__: snapshots)
    with pytest.raises(raised):
        cleanup._drop(cast("Context", ctx), cast("Any", client), an_instance, cast("Any", None))


@pytest.mark.parametrize("was_faster", [False, True])
def test_of_two_jobs_one_fills_the_default_profile_of_a_new_project(*, was_faster: bool) -> None:
    """The other one looks again."""
    written: list[Profile] = []

    def replace_profile(seen: Profile, **_: object) -> None:
        if was_faster:
            raise PreconditionFailed("ETag doesn't match")
        written.append(seen)

    empty = Profile(name="default")
    target = SimpleNamespace(
        profile=lambda *_, **__: empty, profiles=lambda **_: [empty], replace_profile=replace_profile,
        project_definitions=lambda: {"shop": SimpleNamespace(is_made=True)},
    )  # fmt: skip
    made = (
        Creation(thing=Thing.PROJECT, name="shop"),
        Creation(thing=Thing.PROFILE, name="default", config={"a": "b"}),
    )
    move = SimpleNamespace(creations=made, target="s2", target_project="shop")
    ctx = cast("Context", SimpleNamespace(target=target, move=move, confirm_fence=lambda: None))
    if was_faster:
        with pytest.raises(ServerBusy, match="another job fills profile default of shop"):
            creating.create_missing(ctx)
    else:
        creating.create_missing(ctx)
        assert written == [empty]
