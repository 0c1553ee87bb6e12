"""Step name -> function. A test checks it against every itinerary."""

from collections.abc import Callable, Mapping

from common.domain.job import Outcome
from workers.steps import bring_back, cleanup, cutover, preflight, transfer, undo
from workers.steps.context import Context

StepFunction = Callable[[Context], Outcome]

STEPS: Mapping[str, StepFunction] = {
    step.__name__: step
    for step in (
        preflight.check_source,
        preflight.check_target,
        transfer.full_pass,
        transfer.refresh_passes,
        cutover.stop_source,
        transfer.final_pass,
        cutover.hand_over,
        cutover.start_target,
        cutover.verify_target,
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
