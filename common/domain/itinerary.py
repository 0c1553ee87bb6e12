"""The ordered steps of every kind of job, as tables. ``workers.steps.registry`` has one function for each name."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from common.domain.plan import Method, Move


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


#: The step of a failover that waits for the server at home, and needs no other one.
GUARD_STALE = "guard_stale"

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


def _within_cluster(way: Itinerary) -> Itinerary:
    """The same way, on which the copy takes the instance's name as soon as it is the instance."""
    take_name = _step("take_name", Phase.CUTOVER, Slot.CUTOVER)
    steps = tuple(each for step in way.steps for each in ((step, take_name) if step.commit else (step,)))
    return Itinerary(name=f"{way.name}_within_cluster", steps=steps)


#: Source and copy are in one cluster, where a name exists once.
WITHIN_CLUSTER = {Method.WARM: _within_cluster(WARM), Method.COLD: _within_cluster(COLD)}

#: The copy is guarded until it is an instance of its own: that is the commit point, from which nobody takes it away.
COPY = Itinerary(
    name="copy",
    steps=(
        *_PREFLIGHT,
        _step("full_pass", Phase.TRANSFER, Slot.TRANSFER),
        *_AFTER_THE_COPY,
    ),
)

#: What was in the copy is kept beside it until the refreshed one has been verified and is free again.
REFRESH = Itinerary(
    name="refresh",
    steps=(
        *_PREFLIGHT,
        _step("claim_copy", Phase.TRANSFER, Slot.TRANSFER),
        _step("keep_copy", Phase.TRANSFER, Slot.TRANSFER),
        _step("refresh_copy", Phase.TRANSFER, Slot.TRANSFER),
        _step("verify_copy", Phase.CLEANUP),
        _step("release_copy", Phase.CLEANUP, commit=True),
        _step("drop_kept", Phase.CLEANUP),
        _step("drop_snapshots", Phase.CLEANUP),
    ),
)


def _with_volumes(way: Itinerary, *volumes_first: tuple[str, str]) -> Itinerary:
    """The same way, on which these steps about the custom volumes that the instance attaches come before others."""
    before = {of: first for first, of in (*volumes_first, ("release_volumes", "drop_snapshots"))}
    steps = {of: _step(first, way.step(of).phase, way.step(of).slot) for of, first in before.items()}
    return _with_steps(way, steps)


def _with_steps(way: Itinerary, before: Mapping[str, Step], *, name: str = "") -> Itinerary:
    """The same way, on which these steps, about custom volumes if no name is given, come before those of the names."""
    steps = tuple(s for step in way.steps for s in ((before[step.name], step) if step.name in before else (step,)))
    return Itinerary(name=name or f"{way.name}_with_volumes", steps=steps)


_COLD_WITH_VOLUMES = _with_volumes(COLD, ("final_volumes", "full_pass"))
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

#: The manifest is the commit point: a backup file without one is no export. What stays on the server goes after it.
EXPORT = Itinerary(
    name="export",
    steps=(
        _step("check_source", Phase.PREFLIGHT),
        _step("check_archive", Phase.PREFLIGHT),
        _step("make_backup", Phase.TRANSFER, Slot.TRANSFER),
        _step("stream_backup", Phase.TRANSFER, Slot.TRANSFER),
        _step("write_manifest", Phase.CLEANUP, commit=True),
        _step("drop_backup", Phase.CLEANUP),
    ),
)

#: The instance that a server makes from a backup has a name of its job's until it is verified: that it takes its own
#: is the commit point. What a server that dies has left half made is so in nobody's way.
IMPORT = Itinerary(
    name="import",
    steps=(
        _step("check_import", Phase.PREFLIGHT),
        _step("send_backup", Phase.TRANSFER, Slot.TRANSFER),
        _step("verify_import", Phase.CLEANUP),
        _step("name_import", Phase.CLEANUP, commit=True),
        _step("settle_import", Phase.CLEANUP),
    ),
)

#: A generation in an archive is an export of which every byte was read again before it counts.
ARCHIVE = Itinerary(
    name="archive",
    steps=(
        _step("check_source", Phase.PREFLIGHT),
        _step("check_archive", Phase.PREFLIGHT),
        _step("make_backup", Phase.TRANSFER, Slot.TRANSFER),
        _step("stream_backup", Phase.TRANSFER, Slot.TRANSFER),
        _step("verify_export", Phase.TRANSFER, Slot.TRANSFER),
        _step("write_manifest", Phase.CLEANUP, commit=True),
        _step("drop_backup", Phase.CLEANUP),
        _step("prune_archive", Phase.CLEANUP),
    ),
)

#: With a hook it is made of the run's snapshot, which is there in a moment, and so is what the hook has to undo.
ARCHIVE_OF_SNAPSHOT = _with_steps(
    ARCHIVE, {"make_backup": _step("take_snapshot", Phase.TRANSFER, Slot.TRANSFER)}, name="archive_of_snapshot"
)

#: An export that a person must look at leaves the server its room.
GIVE_BACK_EXPORT = Itinerary(name="give_back_export", steps=(_step("drop_backup", Phase.UNDO),))
UNDO_EXPORT = Itinerary(
    name="undo_export", steps=(_step("discard_export", Phase.UNDO), _step("drop_backup", Phase.UNDO))
)
_END_HOOK = _step("end_hook", Phase.UNDO)
GIVE_BACK_ARCHIVE = Itinerary(name="give_back_archive", steps=(_END_HOOK, *GIVE_BACK_EXPORT.steps))
UNDO_ARCHIVE = Itinerary(name="undo_archive", steps=(_END_HOOK, *UNDO_EXPORT.steps))
GIVE_BACK_IMPORT = Itinerary(name="give_back_import", steps=(_step("discard_import", Phase.UNDO),))
UNDO_IMPORT = Itinerary(name="undo_import", steps=(_step("discard_import", Phase.UNDO),))

_VOLUME_IS_SENT = (
    _step("check_volume", Phase.PREFLIGHT),
    _step("send_volume", Phase.TRANSFER, Slot.TRANSFER),
    _step("verify_volume", Phase.CLEANUP),
)

#: A custom volume by itself. That its copy counts is the commit point; its source is dealt with by a later step.
VOLUME_COPY = Itinerary(
    name="volume_copy",
    steps=(
        *_VOLUME_IS_SENT,
        _step("accept_volume", Phase.CLEANUP, commit=True),
        _step("settle_volume", Phase.CLEANUP),
    ),
)
VOLUME_MOVE = Itinerary(
    name="volume_move",
    steps=(
        *_VOLUME_IS_SENT,
        _step("accept_volume", Phase.CLEANUP, commit=True),
        _step("retire_volume", Phase.CLEANUP),
        _step("settle_volume", Phase.CLEANUP),
    ),
)
#: The new copy is made beside the one that is there, which nobody touches; the two change places at the commit point.
VOLUME_REFRESH = Itinerary(
    name="volume_refresh",
    steps=(
        *_VOLUME_IS_SENT,
        _step("swap_volume", Phase.CLEANUP, commit=True),
        _step("drop_kept_volume", Phase.CLEANUP),
        _step("settle_volume", Phase.CLEANUP),
    ),
)
VOLUME_WAYS = {
    Method.VOLUME_MOVE: VOLUME_MOVE,
    Method.VOLUME_COPY: VOLUME_COPY,
    Method.VOLUME_REFRESH: VOLUME_REFRESH,
}

#: What was sent until then is worth nothing: the source may have changed before a later try.
GIVE_BACK_VOLUME = Itinerary(name="give_back_volume", steps=(_step("discard_volume", Phase.UNDO),))
UNDO_VOLUME = Itinerary(
    name="undo_volume", steps=(_step("discard_volume", Phase.UNDO), _step("release_volume", Phase.UNDO))
)

#: That the generation is called complete is the commit point. What goes wrong before it leaves every generation that
#: was complete as it is; what is removed goes after it.
BACKUP = Itinerary(
    name="backup",
    steps=(
        *_PREFLIGHT,
        _step("take_snapshot", Phase.TRANSFER, Slot.TRANSFER),
        _step("refresh_staging", Phase.TRANSFER, Slot.TRANSFER),
        _step("make_generation", Phase.TRANSFER, Slot.TRANSFER),
        _step("verify_generation", Phase.CLEANUP),
        _step("promote", Phase.CLEANUP, commit=True),
        _step("prune", Phase.CLEANUP),
    ),
)

#: That the generation tells of its proof is the commit point; the clone goes after it. One that does not prove itself
#: is a permanent error before it: the clone goes on the way back, and the next try makes another one.
DRILL = Itinerary(
    name="drill",
    steps=(
        _step("check_generation", Phase.PREFLIGHT),
        _step("clone_generation", Phase.TRANSFER, Slot.TRANSFER),
        _step("start_clone", Phase.CUTOVER, Slot.CUTOVER),
        _step("prove_clone", Phase.CUTOVER, Slot.CUTOVER),
        _step("record_drill", Phase.CLEANUP, commit=True),
        _step("drop_clone", Phase.CLEANUP),
    ),
)

#: The instance at home cannot start, or was said to be down, before the one made of the generation can: that it can is
#: the commit point. Whoever was only said to be down is guarded as soon as his server answers, and the job ends then.
FAILOVER = Itinerary(
    name="failover",
    steps=(
        *_PREFLIGHT,
        _step("guard_home", Phase.PREFLIGHT),
        _step("full_pass", Phase.TRANSFER, Slot.TRANSFER),
        _step("verify_copy", Phase.CUTOVER, Slot.CUTOVER),
        _step("take_over", Phase.CUTOVER, Slot.CUTOVER, commit=True),
        _step("start_failover", Phase.CUTOVER, Slot.CUTOVER),
        _step(GUARD_STALE, Phase.CLEANUP),
        _step("drop_snapshots", Phase.CLEANUP),
    ),
)

#: The instance attaches custom volumes, which must be on the target before it. They are sent once, when it is stopped.
#: Those of a backup come after their generation, so that what no generation has is left over, and is removed.
WITH_VOLUMES = {
    Method.WARM: _with_volumes(WARM, ("reserve_volumes", "full_pass"), ("final_volumes", "final_pass")),
    Method.COLD: _COLD_WITH_VOLUMES,
    Method.STATEFUL: _COLD_WITH_VOLUMES,
    Method.COPY: _with_volumes(COPY, ("copy_volumes", "full_pass")),
    Method.FAILOVER: _with_volumes(FAILOVER, ("copy_volumes", "full_pass")),
    Method.BACKUP: _with_steps(BACKUP, {"verify_generation": _step("back_up_volumes", Phase.TRANSFER, Slot.TRANSFER)}),
    Method.DRILL: _with_steps(DRILL, {"clone_generation": _step("clone_volumes", Phase.TRANSFER, Slot.TRANSFER)}),
}


def _home(way: Itinerary) -> Itinerary:
    """The same way, on which what the failover has left at home makes way before anything comes."""
    first = next(step for step in way.steps if step.phase is not Phase.PREFLIGHT)
    aside = _step("set_stale_aside", Phase.TRANSFER, Slot.TRANSFER)
    steps = tuple(s for step in way.steps for s in ((aside, step) if step is first else (step,)))
    return Itinerary(name=f"{way.name}_home", steps=steps)


#: What was failed over comes home, by its method and whether it attaches volumes.
HOME = {
    (method, has_volumes): _home(way)
    for ways, has_volumes in (
        ({Method.WARM: WARM, Method.COLD: COLD, Method.STATEFUL: COLD}, False),
        (WITH_VOLUMES, True),
    )
    for method, way in ways.items()
    if not method.is_copy
}

#: The staging copy stays, for the next run; the snapshot on the source may be other targets' too, and is pruned later.
GIVE_BACK_BACKUP = Itinerary(name="give_back_backup", steps=(*GIVE_BACK.steps, _END_HOOK))
UNDO_BACKUP = Itinerary(name="undo_backup", steps=(*GIVE_BACK_BACKUP.steps, _step("discard_generation", Phase.UNDO)))

#: The instance at home may start again only after what was made here is gone.
UNDO_FAILOVER = Itinerary(
    name="undo_failover",
    steps=(
        *GIVE_BACK.steps,
        _step("discard_copy", Phase.UNDO),
        _step("free_home", Phase.UNDO),
        _step("release_source", Phase.UNDO),
    ),
)

GIVE_BACK_DRILL = Itinerary(name="give_back_drill", steps=(_step("drop_clone", Phase.UNDO),))
UNDO_DRILL = Itinerary(name="undo_drill", steps=(_step("drop_clone", Phase.UNDO),))

#: The ways on which one side is an archive.
WITH_ARCHIVE = (
    *(EXPORT, GIVE_BACK_EXPORT, UNDO_EXPORT, IMPORT, GIVE_BACK_IMPORT, UNDO_IMPORT),
    *(ARCHIVE, ARCHIVE_OF_SNAPSHOT, GIVE_BACK_ARCHIVE, UNDO_ARCHIVE),
)
ITINERARIES = {
    itinerary.name: itinerary
    for itinerary in (
        *(WARM, COLD, *WITHIN_CLUSTER.values(), COPY, REFRESH, *WITH_VOLUMES.values()),
        *(GIVE_BACK, UNDO, BRING_BACK, BACKUP, GIVE_BACK_BACKUP, UNDO_BACKUP, *WITH_ARCHIVE),
        *(DRILL, GIVE_BACK_DRILL, UNDO_DRILL, FAILOVER, UNDO_FAILOVER, *HOME.values()),
        *(*VOLUME_WAYS.values(), GIVE_BACK_VOLUME, UNDO_VOLUME),
    )
}
FORWARD = {
    Method.WARM: WARM,
    Method.COLD: COLD,
    Method.STATEFUL: COLD,
    Method.COPY: COPY,
    Method.REFRESH: REFRESH,
    Method.EXPORT: EXPORT,
    Method.IMPORT: IMPORT,
    **VOLUME_WAYS,
    Method.BACKUP: BACKUP,
    Method.ARCHIVE: ARCHIVE,
    Method.DRILL: DRILL,
    Method.FAILOVER: FAILOVER,
}
GIVE_BACKS = dict.fromkeys(Method, GIVE_BACK) | {
    Method.EXPORT: GIVE_BACK_EXPORT,
    Method.ARCHIVE: GIVE_BACK_ARCHIVE,
    Method.IMPORT: GIVE_BACK_IMPORT,
    Method.BACKUP: GIVE_BACK_BACKUP,
    Method.DRILL: GIVE_BACK_DRILL,
    **dict.fromkeys(VOLUME_WAYS, GIVE_BACK_VOLUME),
}
UNDOS = dict.fromkeys(Method, UNDO) | {
    Method.EXPORT: UNDO_EXPORT,
    Method.ARCHIVE: UNDO_ARCHIVE,
    Method.IMPORT: UNDO_IMPORT,
    Method.BACKUP: UNDO_BACKUP,
    Method.DRILL: UNDO_DRILL,
    Method.FAILOVER: UNDO_FAILOVER,
    **dict.fromkeys(VOLUME_WAYS, UNDO_VOLUME),
}


def forward_of(move: Move) -> Itinerary:
    """The way that a move goes."""
    if move.goes_home:
        return HOME[move.method, bool(move.volumes)]
    if move.exports_clone:
        return ARCHIVE_OF_SNAPSHOT
    if move.volumes and not move.is_of_volume:
        return WITH_VOLUMES[move.method]
    return (WITHIN_CLUSTER if move.is_within_cluster else FORWARD)[move.method]


#: Where a job that gave back goes on: the passes follow a complete copy, so no finished pass is sent again.
RESUME_AT = {
    Method.WARM: "refresh_passes",
    Method.COLD: "stop_source",
    Method.STATEFUL: "stop_source",
    Method.COPY: "full_pass",
    Method.REFRESH: "refresh_copy",
    Method.EXPORT: "make_backup",
    Method.IMPORT: "send_backup",
    **dict.fromkeys(VOLUME_WAYS, "send_volume"),
    Method.BACKUP: "refresh_staging",
    Method.ARCHIVE: "make_backup",
    Method.DRILL: "clone_generation",
    Method.FAILOVER: "full_pass",
}
#: The same with volumes: the passes of an instance need them all.
RESUME_AT_WITH_VOLUMES = {
    Method.WARM: "reserve_volumes",
    Method.COLD: "stop_source",
    Method.STATEFUL: "stop_source",
    Method.COPY: "copy_volumes",
    Method.BACKUP: "refresh_staging",
    Method.DRILL: "clone_volumes",
    Method.FAILOVER: "copy_volumes",
}
