"""The ordered steps of every kind of job, as tables. ``workers.steps.registry`` has one function for each name."""

from dataclasses import dataclass
from enum import StrEnum

from common.domain.plan import Method


class Phase(StrEnum):
    """Each phase is one queue with one actor."""

    PREFLIGHT = "preflight"
    TRANSFER = "transfer"
    CUTOVER = "cutover"
    CLEANUP = "cleanup"
    UNDO = "undo"


class Slot(StrEnum):
    """What a step needs a permit for on its source and on its target."""

    TRANSFER = "transfer"
    CUTOVER = "cutover"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One checkpointed unit of work. ``commit``: after it a job only goes forward, before it only back."""

    name: str
    phase: Phase
    slot: Slot | None = None
    commit: bool = False


@dataclass(frozen=True, kw_only=True)
class Itinerary:
    """The steps of one kind of job, in order."""

    name: str
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        """The step of this name. Raises KeyError."""
        return self.steps[self.index(name)]

    def index(self, name: str) -> int:
        """The place of the step of this name. Raises KeyError."""
        for number, step in enumerate(self.steps):
            if step.name == name:
                return number
        raise KeyError(f"itinerary {self.name} has no step {name}")

    def after(self, name: str) -> Step | None:
        """The next step, or None after the last."""
        following = self.steps[self.index(name) + 1 :]
        return following[0] if following else None


def _step(name: str, phase: Phase, slot: Slot | None = None, *, commit: bool = False) -> Step:
    return Step(name=name, phase=phase, slot=slot, commit=commit)


_PREFLIGHT = (
    _step("check_source", Phase.PREFLIGHT),
    _step("check_target", Phase.PREFLIGHT),
)
_AFTER_THE_LAST_PASS = (
    _step("hand_over", Phase.CUTOVER, Slot.CUTOVER, commit=True),
    _step("start_target", Phase.CUTOVER, Slot.CUTOVER),
    _step("verify_target", Phase.CUTOVER, Slot.CUTOVER),  # downtime ends
    _step("retire_source", Phase.CLEANUP),
    _step("drop_snapshots", Phase.CLEANUP),
)

_AFTER_THE_COPY = (
    _step("verify_copy", Phase.CLEANUP),
    _step("release_copy", Phase.CLEANUP, commit=True),
    _step("drop_snapshots", Phase.CLEANUP),
)

WARM = Itinerary(
    name="warm",
    steps=(
        *_PREFLIGHT,
        _step("full_pass", Phase.TRANSFER, Slot.TRANSFER),
        _step("refresh_passes", Phase.TRANSFER, Slot.TRANSFER),  # until convergence
        _step("stop_source", Phase.CUTOVER, Slot.CUTOVER),  # downtime begins
        _step("final_pass", Phase.CUTOVER, Slot.CUTOVER),
        *_AFTER_THE_LAST_PASS,
    ),
)

COLD = Itinerary(
    name="cold",
    steps=(
        *_PREFLIGHT,
        _step("stop_source", Phase.TRANSFER, Slot.TRANSFER),
        _step("full_pass", Phase.TRANSFER, Slot.TRANSFER),
        *_AFTER_THE_LAST_PASS,
    ),
)

#: The copy is guarded until it is an instance of its own: that is the commit point, from which nobody takes it away.
COPY = Itinerary(
    name="copy",
    steps=(
        *_PREFLIGHT,
        _step("full_pass", Phase.TRANSFER, Slot.TRANSFER),
        *_AFTER_THE_COPY,
    ),
)

#: The way back before the commit point that keeps the copy, so that a later try continues from it.
GIVE_BACK = Itinerary(
    name="give_back",
    steps=(
        _step("cancel_pass", Phase.UNDO),
        _step("restart_source", Phase.UNDO),
    ),
)

#: The way back before the commit point that leaves nothing behind.
UNDO = Itinerary(
    name="undo",
    steps=(
        *GIVE_BACK.steps,
        _step("discard_copy", Phase.UNDO),
        _step("release_source", Phase.UNDO),
    ),
)

#: The way back after the commit point: the source runs again as it was when it stopped; the target is kept, stopped.
BRING_BACK = Itinerary(
    name="bring_back",
    steps=(
        _step("stop_target", Phase.UNDO),
        _step("take_back", Phase.UNDO),
        _step("start_source", Phase.UNDO),
        _step("release_source", Phase.UNDO),
    ),
)

ITINERARIES = {itinerary.name: itinerary for itinerary in (WARM, COLD, COPY, GIVE_BACK, UNDO, BRING_BACK)}
FORWARD = {Method.WARM: WARM, Method.COLD: COLD, Method.COPY: COPY}

#: Where a job that gave back goes on: the passes follow a complete copy, so no finished pass is sent again.
RESUME_AT = {Method.WARM: "refresh_passes", Method.COLD: "stop_source", Method.COPY: "full_pass"}
