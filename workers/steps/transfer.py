"""Transfer: the passes that are made while the instance runs (warm), or the one of the stopped instance (cold)."""

from dataclasses import replace

from common.domain.convergence import decide
from common.domain.job import Outcome, Pass
from workers.steps.context import Context
from workers.steps.copying import RefreshImpossible, local_pass, run_pass
from workers.steps.cutover import check_untouched


def full_pass(ctx: Context) -> Outcome:
    """The whole instance with all its snapshots; the copy cannot start until the cutover."""
    passed = local_pass(ctx) if ctx.move.is_local else run_pass(ctx, "full")
    if isinstance(passed, Outcome):
        return passed
    return Outcome.completed(finished_pass=passed)


def refresh_passes(ctx: Context) -> Outcome:
    """Pass after pass of what has changed, until the rest fits the downtime budget or stops shrinking."""
    if ctx.job.facts.get("no_refresh"):
        return Outcome.completed()
    took = [finished.took for finished in ctx.job.passes if finished.kind in ("full", "refresh")]
    if "pass" not in ctx.job.evidence and took and not ctx.job.facts.get("copy_broken") and ctx.own_copy() is not None:
        decision = decide(took, ctx.move.policy.downtime)
        if not decision.again:
            return Outcome.completed(convergence=decision.reason)
    try:
        passed = run_pass(ctx, "refresh")
    except RefreshImpossible as error:
        return Outcome.completed(no_refresh=error.message, whole_from=ctx.job.facts["next_pass"])
    if isinstance(passed, Outcome):
        return passed
    return Outcome.again(finished_pass=passed)


def final_pass(ctx: Context) -> Outcome:
    """What the stopped source still has to give: a delta, thanks to a fresh snapshot; without one, all of it again."""
    if "pass" not in ctx.job.evidence:
        check_untouched(ctx, ctx.source_instance())
    whole = bool(ctx.job.facts.get("no_refresh"))
    try:
        passed = run_pass(ctx, "full" if whole else "final")
    except RefreshImpossible as error:
        # The full pass was within the downtime budget, or the passes before this one would have shown it.
        ctx.note(no_refresh=error.message, whole_from=ctx.job.facts["next_pass"])
        return Outcome.again()
    if isinstance(passed, Pass):
        return Outcome.completed(finished_pass=replace(passed, kind="final"))
    return passed
