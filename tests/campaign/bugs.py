"""Deliberate bugs: each breaks one thing that herder's promises rest on, for as long as a block lasts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import common.lxd.transport
import workers.runner
from common.domain import itinerary
from common.domain.instance import Instance
from common.domain.itinerary import COLD, FORWARD, WARM, Itinerary
from common.domain.job import Job, Outcome, State
from common.domain.plan import Retire
from common.domain.retention import Kept
from common.domain.volume import AttachedVolume, Volume
from common.lxd.migration import generation_body
from common.lxd.transport import Reply, Transport
from common.store.jobs import Claim, JobStore
from tests.campaign.line import changed
from workers.steps import generations, volume_steps, volumes
from workers.steps.cleanup import retire_source
from workers.steps.context import Context
from workers.steps.marks import mark
from workers.steps.registry import STEPS


@contextmanager
def no_fence_check() -> Iterator[None]:
    """Whoever once had a job may change it and its instance for ever."""
    with changed("prelude", "return h[1] == owner and h[2] == ver", "return true"):
        yield


@contextmanager
def checkpoint_before_effect() -> Iterator[None]:
    """A step is noted as completed, and then it is run."""
    attempt = workers.runner.Runner._attempt

    def eager(self: Any, claim: Claim, at: Job) -> Any:
        if at.step in ("stop_source", "final_pass", "hand_over", "start_target"):
            noted = at.with_outcome(Outcome.completed(), self.now())
            if not noted.has_ended:
                self.jobs.commit(claim, noted, keep=True)
        return attempt(self, claim, at)

    with mock.patch.object(workers.runner.Runner, "_attempt", eager):
        yield


@contextmanager
def source_deleted_before_verify() -> Iterator[None]:
    """The source is retired right after the hand-over, whatever the target does."""
    early = {way.name: _early(way) for way in (WARM, COLD)}
    forward = {method: early.get(way.name, way) for method, way in FORWARD.items()}

    def unseen(ctx: Context) -> Outcome:
        if ctx.move.policy.retire is not Retire.DELETE:
            return retire_source(ctx)
        source = ctx.source_instance()
        ended = ctx.settle(
            "delete",
            lambda: ctx.on_source(ctx.source.delete(source.name, project=source.project)),
            blocked_on="the removal of the source",
        )
        return ended if isinstance(ended, Outcome) else Outcome.completed()

    with ExitStack() as stack:
        for table, changed_ways in ((itinerary.ITINERARIES, early), (itinerary.FORWARD, forward)):
            stack.enter_context(mock.patch.dict(table, changed_ways))
        stack.enter_context(mock.patch.object(workers.runner, "STEPS", {**STEPS, "retire_source": unseen}))
        yield


def _early(way: Itinerary) -> Itinerary:
    steps = [step for step in way.steps if step.name != "retire_source"]
    steps.insert(way.index("hand_over") + 1, way.step("retire_source"))
    return replace(way, steps=tuple(steps))


@contextmanager
def outbox_not_atomic() -> Iterator[None]:
    """A checkpoint is saved first; that somebody shall go on is written after it, in another request."""
    commit = JobStore.commit
    last = "  redis.call('ZADD', due, t + VISIBILITY, id)\n  push(id, c.phase)\nend\nreturn"

    def in_two(self: JobStore, claim: Claim, saved: Job, *, keep: bool = False, **effects: Any) -> str:
        control = commit(self, claim, saved, keep=keep, **effects)
        if not keep and saved.state is State.RUNNING:
            self._client.zadd(self._keys.due, {saved.id: 1})
        return control

    with (
        changed("commit", last, "  redis.call('ZREM', due, id)\nend\nreturn"),
        mock.patch.object(JobStore, "commit", in_two),
    ):
        yield


@contextmanager
def post_is_retried() -> Iterator[None]:
    """Every request is sent again when its connection broke, not only one that changes nothing."""

    def request(
        self: Transport,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        def attempt() -> Reply:
            return self._attempt(method, path, params=params, json=json, headers=headers, timeout=timeout)

        return common.lxd.transport._again(attempt)

    with mock.patch.object(Transport, "request", request):
        yield


@contextmanager
def lease_not_renewed() -> Iterator[None]:
    """A lease ends when it ends, however well its holder is."""
    with changed("renew", "redis.call('HSET', job_key(id), 'lease', now() + ARGV[5])", ""):
        yield


@contextmanager
def volumes_not_sent() -> Iterator[None]:
    """A volume counts as complete as soon as it is there."""
    with (
        mock.patch.object(volumes, "is_last_word", return_value=True),
        mock.patch.object(volume_steps, "is_last_word", return_value=True),
    ):
        yield


@contextmanager
def old_volume_overwritten() -> Iterator[None]:
    """A refresh is made in the place of the volume that is there, as LXD does it, and not beside it."""
    there = mock.Mock(side_effect=lambda _ctx, volume: volume.target_name)

    def taken_over(ctx: Context, volume: AttachedVolume) -> Volume | None:
        found = volumes.on_target(ctx, volume)
        if found is not None and found.marks.get("job") != ctx.job.id:
            volumes.patch(ctx, ctx.target, found, lambda _: {mark("job"): ctx.job.id, mark("state"): "receiving"})
            return volumes.on_target(ctx, volume)
        return found

    with (
        mock.patch.object(volumes, "name_there", there),
        mock.patch.object(volumes, "ours_on_target", taken_over),
    ):
        yield


@contextmanager
def backup_of_what_moves() -> Iterator[None]:
    """A generation is made of the staging copy as it is, and not of the run's snapshot in it."""

    def of_staging(name: str, *, of: Instance, **more: Any) -> dict[str, Any]:
        return {
            **generation_body(name, of=of, **more),
            "source": {"type": "copy", "source": of.name, "project": of.project},
        }

    with mock.patch.object(generations, "generation_body", of_staging):
        yield


@contextmanager
def backups_pruned_without_mercy() -> Iterator[None]:
    """A run removes every generation but its own, whatever the policy keeps."""
    with mock.patch.object(generations, "retain", lambda moments, *_: Kept(keep={}, remove=tuple(moments))):
        yield


BUGS: tuple[Callable[[], AbstractContextManager[None]], ...] = (
    no_fence_check,
    checkpoint_before_effect,
    source_deleted_before_verify,
    outbox_not_atomic,
    post_is_retried,
    lease_not_renewed,
    volumes_not_sent,
    old_volume_overwritten,
    backup_of_what_moves,
    backups_pruned_without_mercy,
)
