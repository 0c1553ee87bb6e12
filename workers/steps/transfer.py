"""Transfer: the passes that are made while the instance runs (warm), or the one of the stopped instance (cold)."""

from common.domain.convergence import decide
from common.domain.job import Outcome, Pass
from workers.steps.context import Context
from workers.steps.copying import run_pass


def full_pass(ctx: Context) -> Outcome:
    """The whole instance with all its snapshots; the copy cannot start until the cutover."""
    passed = run_pass(ctx, "full")
    if isinstance(passed, Outcome):
        return passed
    return Outcome.completed(finished_pass=passed)


def refresh_passes(ctx: Context) -> Outcome:
    """Pass after pass of what has changed, until the rest fits the downtime budget or stops shrinking."""
    took = [finished.took for finished in ctx.job.passes if finished.kind in ("full", "refresh")]
    if "pass" not in ctx.job.evidence and took:
        decision = decide(took, ctx.move.policy.downtime)
        if not decision.again:
            return Outcome.completed(convergence=decision.reason)
    passed = run_pass(ctx, "refresh")
    if isinstance(passed, Outcome):
        return passed
    return Outcome.again(finished_pass=passed)


def final_pass(ctx: Context) -> Outcome:
    """What the stopped source still has to give: a delta, thanks to a fresh snapshot; without one, all of it again."""
    passed = run_pass(ctx, "final")
    if isinstance(passed, Pass):
        return Outcome.completed(finished_pass=passed)
    return passed
