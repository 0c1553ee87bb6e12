"""Step name -> function. A test checks it against every itinerary."""

from collections.abc import Callable, Mapping
from functools import wraps

from common.domain.job import Outcome
from workers.steps import bring_back, cleanup, cutover, independence, preflight, transfer, undo
from workers.steps.context import Context
from workers.steps.guard import was_handed_over

StepFunction = Callable[[Context], Outcome]


def _unless_handed_over(step: StepFunction) -> StepFunction:
    """A step that is done if the commit point lies behind it: Redis may have lost how far the job was."""

    @wraps(step)
    def looks_first(ctx: Context) -> Outcome:
        return Outcome.completed() if was_handed_over(ctx) else step(ctx)

    return looks_first


STEPS: Mapping[str, StepFunction] = {
    step.__name__: step
    for step in (
        preflight.check_source,
        preflight.check_target,
        _unless_handed_over(transfer.full_pass),
        _unless_handed_over(transfer.refresh_passes),
        _unless_handed_over(cutover.stop_source),
        _unless_handed_over(transfer.final_pass),
        cutover.hand_over,
        cutover.start_target,
        cutover.verify_target,
        _unless_handed_over(independence.verify_copy),
        independence.release_copy,
        cleanup.retire_source,
        cleanup.drop_snapshots,
        undo.cancel_pass,
        undo.restart_source,
        undo.discard_copy,
        undo.release_source,
        bring_back.stop_target,
        bring_back.take_back,
        bring_back.start_source,
    )
}
