"""A worker that dies, or falls asleep, around one step of one job; otherwise the real one.

``before`` a step, nothing of it has been done. ``after`` it, its effect is there and its outcome is not yet saved.
``begun``: it has begun a transfer, and that is not yet saved. ``middle``: it has begun one, that is saved, and the
transfer is under way; of a backup that it carries itself, ``--look`` tells how many pieces are. ``last-look``: it has
just made sure that the job is its own, and is about to write to a server.

Dying is SIGKILL. With ``--sleep`` it is SIGSTOP instead, and it goes on when it is told to. Either happens once: the
first thing it does is to make the flag file, and with the file there it is an ordinary worker.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import workers.__main__
from common.domain.job import Job, Kind, Outcome
from common.store.jobs import Claim, JobStore
from workers import runner
from workers.steps import streams
from workers.steps.context import Context
from workers.steps.registry import STEPS, StepFunction

MOMENTS = ("before", "begun", "middle", "after", "last-look")


class Fate:
    """What shall happen, where, and whether it already has."""

    def __init__(self, moment: str, step: str, *, look: int, flag: Path, sleeps: bool) -> None:
        self.moment = moment
        self.step = step
        self._looks_left = look
        self._flag = flag
        self._signal = signal.SIGSTOP if sleeps else signal.SIGKILL

    def strike(self) -> None:
        """Once."""
        try:
            self._flag.touch(exist_ok=False)
        except FileExistsError:
            return
        # Sent to this very thread, which so does not get any further; sent to the process, it would for a moment.
        signal.pthread_kill(threading.get_ident(), self._signal)

    def around(self, step: StepFunction) -> StepFunction:
        """The step with this fate."""

        def fated(ctx: Context) -> Outcome:
            if self.moment == "before":
                self.strike()
            if self.moment == "last-look":
                self._strike_after_look(ctx)
            outcome = step(ctx)
            if self.moment == "after" and outcome.kind in (Kind.COMPLETED, Kind.AGAIN):
                self.strike()
            return outcome

        return fated

    def _strike_after_look(self, ctx: Context) -> None:
        look = ctx.confirm_fence

        def look_and_strike() -> None:
            look()
            self._look()

        ctx.confirm_fence = look_and_strike

    def _look(self) -> None:
        self._looks_left -= 1
        if self._looks_left == 0:
            self.strike()

    def at_commit(self, moment: str, job: Job) -> None:
        """Before (``begun``) and after (``middle``) a transfer that the step has begun is saved."""
        if self.moment == moment and job.step == self.step and {"receive", "since"} & set(job.evidence):
            self._look()


class FatedStore(JobStore):
    """The real store; it tells fate of every checkpoint."""

    fate: Fate

    def commit(self, claim: Claim, job: Job, **options: Any) -> str:
        """As it is, unless the end comes before or after it."""
        self.fate.at_commit("begun", job)
        control = super().commit(claim, job, **options)
        self.fate.at_commit("middle", job)
        return control


def main(arguments: Sequence[str]) -> int:
    """Run a worker with the fate that the arguments say; the others are the worker's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", nargs=2, metavar=("MOMENT", "STEP"), required=True)
    parser.add_argument("--look", type=int, default=1, help="which look of the step, or piece of its backup")
    parser.add_argument("--flag", type=Path, required=True)
    parser.add_argument("--sleep", action="store_true")
    chosen, rest = parser.parse_known_args(arguments)
    moment, step = chosen.at
    if moment not in MOMENTS:
        parser.error(f"no such moment: {moment}")
    fate = Fate(moment, step, look=chosen.look, flag=chosen.flag, sleeps=chosen.sleep)
    FatedStore.fate = fate
    sys.argv[1:] = rest
    with (
        patch.object(runner, "STEPS", {**STEPS, step: fate.around(STEPS[step])}),
        patch.object(workers.__main__, "JobStore", FatedStore),
        patch.object(streams, "KEEP_ALIVE_SECONDS", 0),
    ):
        return workers.__main__.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
