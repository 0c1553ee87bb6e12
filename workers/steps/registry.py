"""Step name -> function. A test checks it against every itinerary."""

from collections.abc import Callable, Mapping
from functools import wraps

from common.domain.job import Outcome
from workers.steps import (
    archiving,
    backed_volumes,
    backing_up,
    bring_back,
    cleanup,
    cutover,
    drilling,
    exporting,
    failing_over,
    generations,
    homing,
    importing,
    independence,
    lone_volumes,
    preflight,
    refreshing,
    transfer,
    undo,
    volume_steps,
    volumes,
)
from workers.steps.context import Context
from workers.steps.guard import was_handed_over

StepFunction = Callable[[Context], Outcome]


def _unless(is_committed: Callable[[Context], bool]) -> Callable[[StepFunction], StepFunction]:
    """For a step that is done if the commit point lies behind it: Redis may have lost how far the job was."""

    def guarded(step: StepFunction) -> StepFunction:
        @wraps(step)
        def looks_first(ctx: Context) -> Outcome:
            return Outcome.completed() if is_committed(ctx) else step(ctx)

        return looks_first

    return guarded


def _has_its_snapshot(ctx: Context) -> bool:
    """Whether a backup's commit point lies behind it. What its hook has made quiet waits for no target's answer."""
    if ctx.job.is_quiet:
        return False
    return exporting.is_exported(ctx) if ctx.move.archive else was_handed_over(ctx)


_unless_handed_over, _unless_accepted = _unless(was_handed_over), _unless(lone_volumes.is_accepted)


STEPS: Mapping[str, StepFunction] = {
    step.__name__: step
    for step in (
        preflight.check_source,
        preflight.check_target,
        _unless_handed_over(volumes.reserve_volumes),
        _unless_handed_over(volume_steps.copy_volumes),
        _unless_handed_over(transfer.full_pass),
        _unless_handed_over(transfer.refresh_passes),
        _unless_handed_over(cutover.stop_source),
        _unless_handed_over(volume_steps.final_volumes),
        _unless_handed_over(transfer.final_pass),
        cutover.hand_over,
        cutover.take_name,
        cutover.start_target,
        cutover.verify_target,
        _unless_handed_over(independence.verify_copy),
        independence.release_copy,
        _unless_handed_over(refreshing.claim_copy),
        _unless_handed_over(refreshing.keep_copy),
        _unless_handed_over(refreshing.refresh_copy),
        refreshing.drop_kept,
        _unless_handed_over(failing_over.guard_home),
        failing_over.take_over,
        failing_over.start_failover,
        failing_over.guard_stale,
        failing_over.free_home,
        _unless_handed_over(homing.set_stale_aside),
        cleanup.retire_source,
        volume_steps.release_volumes,
        cleanup.drop_snapshots,
        _unless(_has_its_snapshot)(backing_up.take_snapshot),
        backing_up.end_hook,
        _unless_handed_over(backing_up.refresh_staging),
        _unless_handed_over(generations.make_generation),
        _unless_handed_over(backed_volumes.back_up_volumes),
        _unless_handed_over(generations.verify_generation),
        generations.promote,
        generations.prune,
        generations.discard_generation,
        drilling.check_generation,
        drilling.clone_volumes,
        drilling.clone_generation,
        drilling.start_clone,
        drilling.prove_clone,
        drilling.record_drill,
        drilling.drop_clone,
        undo.cancel_pass,
        undo.restart_source,
        undo.discard_copy,
        undo.release_source,
        bring_back.stop_target,
        bring_back.take_back,
        bring_back.start_source,
        exporting.check_archive,
        exporting.make_backup,
        exporting.stream_backup,
        exporting.write_manifest,
        exporting.drop_backup,
        exporting.discard_export,
        archiving.verify_export,
        archiving.prune_archive,
        importing.check_import,
        importing.send_backup,
        importing.verify_import,
        importing.name_import,
        importing.settle_import,
        importing.discard_import,
        _unless_accepted(lone_volumes.check_volume),
        _unless_accepted(lone_volumes.send_volume),
        _unless_accepted(lone_volumes.verify_volume),
        _unless_accepted(lone_volumes.accept_volume),
        _unless_accepted(lone_volumes.swap_volume),
        lone_volumes.drop_kept_volume,
        lone_volumes.retire_volume,
        lone_volumes.settle_volume,
        lone_volumes.discard_volume,
        lone_volumes.release_volume,
    )
}
