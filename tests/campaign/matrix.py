"""The crash matrix on simulated servers: a worker dies at every point of every step of every itinerary.

The rollback matrix is about Redis: at every checkpoint it comes back with an earlier one.

Made from the tables of ``common.domain.itinerary``: an itinerary that does not lead forward is entered where a job can
be turned onto it, in the middle of a cutover or, if it begins after the commit point, when the job is done.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import redis

import workers.runner
from common.domain.generation import Hook
from common.domain.itinerary import (
    ARCHIVE_OF_SNAPSHOT,
    FAILOVER,
    FORWARD,
    GIVE_BACK_ARCHIVE,
    GIVE_BACK_BACKUP,
    GIVE_BACK_DRILL,
    GIVE_BACK_VOLUME,
    HOME,
    ITINERARIES,
    UNDO_ARCHIVE,
    UNDO_BACKUP,
    UNDO_DRILL,
    UNDO_FAILOVER,
    UNDO_VOLUME,
    VOLUME_WAYS,
    WITH_ARCHIVE,
    WITH_VOLUMES,
    WITHIN_CLUSTER,
    Itinerary,
)
from common.domain.job import Job, State
from common.domain.plan import AfterGrace, Limits, Method, Mode, Retire
from tests.builders import a_job
from tests.campaign.checker import check
from tests.campaign.line import scripts_in_virtual_time
from tests.campaign.outages import Copy
from tests.campaign.scenario import Box, Machine, Scenario, Server
from tests.campaign.shelves import boxes_before, check_boxes
from tests.campaign.trial import Person, build, story
from tests.campaign.vault import check_archive, check_backups, check_drills
from tests.campaign.worker import Worker
from tests.campaign.world import Restless, World, virtual_waits
from tests.simulator import Guest
from workers.steps.registry import STEPS

#: The simulator has no clusters, and of backups of instances those that are made between hooks: workers that need the
#: others are killed on real servers. A failover and the way home are one story, which ``test_failovers`` has.
_BETWEEN_HOOKS = (ARCHIVE_OF_SNAPSHOT, GIVE_BACK_ARCHIVE, UNDO_ARCHIVE)
PLAYED = tuple(
    each
    for each in ITINERARIES.values()
    if each not in (*WITHIN_CLUSTER.values(), *(set(WITH_ARCHIVE) - set(_BETWEEN_HOOKS)), *HOME.values())
    and each.name.removesuffix("_with_volumes") not in (FAILOVER.name, UNDO_FAILOVER.name)
)
#: Where a job that is on its way forward is turned back: its source is stopped and guarded, its copy is not complete.
_TURNED_AT = "final_pass"
_VOLUME_TURNED_AT = "send_volume"
_WAYS_OF_VOLUMES = (*VOLUME_WAYS.values(), GIVE_BACK_VOLUME, UNDO_VOLUME)
#: The same of a backup: its staging copy has arrived, and its generation is not made.
_BACKUP_TURNED_AT = "make_generation"
#: Of one in an archive: its file is there, and does not count yet.
_ARCHIVE_TURNED_AT = "verify_export"
#: Of a drill: its clone runs.
_DRILL_TURNED_AT = "prove_clone"
_LEASE_IS_OVER = 16.0
_JOB = "p1-1"
#: What each backup runs in its instance.
_HOOK = Hook(before=("be quiet",), after=("go on",))


@dataclass(frozen=True)
class Point:
    """The ``number``-th place of a run in which its worker can die; ``what`` comes next, in this ``step``."""

    number: int
    step: str
    what: str

    @property
    def when(self) -> str:
        """``before`` the step, in the ``middle``, before its ``checkpoint`` or ``after`` it."""
        if self.what == "begin":
            return "before"
        if self.what == "after redis commit":
            return "after"
        return "checkpoint" if self.what == "redis commit" else "middle"


class _Steps(Mapping[str, Any]):
    """The registry, telling which step is at hand."""

    def __init__(self, run: "_Run") -> None:
        self._run = run

    def __getitem__(self, name: str) -> Any:
        def step(ctx: Any) -> Any:
            self._run.step = name
            self._run.world.point("begin", is_write=False)
            return STEPS[name](ctx)

        return step

    def __iter__(self) -> Iterator[str]:
        return iter(STEPS)

    def __len__(self) -> int:
        return len(STEPS)


class _Run:
    """One job on its way along one itinerary; its worker dies at the point of this number, or never.

    With ``back_to`` Redis dies too, and comes back as it was at that point; then somebody ``cancels``. A worker that
    ``stalls`` does not die, but gets no further for longer than a lease, while another one is woken. At the point
    of the number ``asks_at`` a person cancels; one that is ``forgotten`` is carried out, and then Redis comes back as
    it was at that point. ``proof`` is the command of a drill, which with ``false`` has to be parked. With ``incus`` as
    ``product`` the target is a server that crashes when it is sent a custom volume.
    """

    def __init__(
        self,
        pool: redis.ConnectionPool,
        itinerary: Itinerary,
        dies_at: int | None,
        retire: Retire,
        *,
        back_to: int | None = None,
        cancels: bool = False,
        stalls: bool = False,
        asks_at: int | None = None,
        is_forgotten: bool = False,
        mode: Mode = Mode.AUTO,
        proof: str = "true",
        product: str = "lxd",
    ) -> None:
        self.world = World(pool, 1, switches=0.0)
        self.itinerary = itinerary
        self.step = ""
        self.points: list[Point] = []
        self._dies_at, self._back_to, self._cancels = dies_at, back_to, cancels
        self._stalls, self._asks_at, self._is_forgotten = stalls, asks_at, is_forgotten
        self._kept: Copy | None = None
        self._is_on_it = itinerary in (*FORWARD.values(), *WITH_VOLUMES.values(), ARCHIVE_OF_SNAPSHOT)
        self._archive = TemporaryDirectory()
        self._scenario = _scenario(itinerary, retire, mode, proof, product)
        if itinerary in _BETWEEN_HOOKS:
            archived = tuple(replace(each, target=self._archive.name) for each in self._scenario.machines)
            self._scenario = replace(self._scenario, machines=archived)
        self._person = Person(self.world)
        self._subject = _subject(self._scenario)

    def play(self) -> list[str]:
        """What is wrong at the end."""
        world = self.world
        were, boxes = build(world, self._scenario), boxes_before(world.fleet, self._scenario.boxes)
        for machine in self._scenario.machines:
            self._person.submit("p1", machine, self._scenario)
        for box in self._scenario.boxes:
            self._person.submit_box("p1", box, self._scenario)
        world.hire("w1")
        world.at_points.append(self._at_point)
        try:
            self._go()
        except Restless as restless:
            return [str(restless)]
        world.settle(60)
        endings = self._person.endings()
        found = check(world.fleet, were, endings) + check_boxes(world.fleet, boxes, endings) + world.protests
        for machine in self._scenario.machines:
            if machine.method is Method.ARCHIVE:
                found += check_archive(world.fleet, machine, [ending.state for ending in endings])
            elif machine.nights:
                found += check_backups(world.fleet, machine, self._person.states(machine), forgets=False)
            if machine.method is Method.DRILL:
                found += check_drills(world.fleet, machine, self._person.states(machine))
            if machine.proof == "false":
                return found + [f"the drill is {e.state}: {e.why}" for e in endings if "exit code 1" not in e.why]
        return found + [f"{e.instance} is parked: {e.why}" for e in endings if e.state == "parked"]

    def close(self) -> None:
        """Its archive goes."""
        self._archive.cleanup()

    def _go(self) -> None:
        if not self._is_on_it:
            self._lead()
        self._is_on_it = True
        self.world.run_until_rest()
        if self._is_forgotten:
            assert self._kept is not None
            self.world.roll_back(self._kept, away=2.0)
            self.world.run_until_rest()

    def _lead(self) -> None:
        """Bring the job to where the itinerary begins, and turn it."""
        probe = replace(_any_job(), itinerary=self.itinerary.name, step=self.itinerary.steps[0].name)
        if probe.is_committed:
            self.world.run_until_rest()
        else:
            self._run_to(self._turned_at)
        claim = self.world.store.claim(_JOB, "person", ended_too=True)
        assert claim
        first = self.itinerary.steps[0].name
        turned = replace(
            claim.job, itinerary=self.itinerary.name, step=first, state=State.QUEUED, reached=claim.job.step,
            undo_then="resume", finished_at=None, evidence={} if probe.is_committed else claim.job.evidence,
        )  # fmt: skip
        self.world.store.commit(claim, replace(turned, state=State.RUNNING))

    @property
    def _turned_at(self) -> str:
        if self._scenario.boxes:
            return _VOLUME_TURNED_AT
        if self.itinerary in (GIVE_BACK_DRILL, UNDO_DRILL):
            return _DRILL_TURNED_AT
        if self.itinerary in (GIVE_BACK_ARCHIVE, UNDO_ARCHIVE):
            return _ARCHIVE_TURNED_AT
        return _BACKUP_TURNED_AT if self.itinerary in (GIVE_BACK_BACKUP, UNDO_BACKUP) else _TURNED_AT

    def _run_to(self, step: str) -> None:
        """Its worker dies when it has begun the pass that this step makes, and nobody is there until the lease ends."""
        while self.step != step:
            assert self.world._turn()
        worker = self.world.workers[0]
        self.world.kill(worker, back_in=_LEASE_IS_OVER)
        self.world.settle(_LEASE_IS_OVER)
        while not self.world._somebody():
            self.world._turn()

    def _at_point(self, worker: Worker, what: str, _is_write: bool) -> None:
        if not self._is_on_it or not self.step or self.step not in {step.name for step in self.itinerary.steps}:
            return
        number = len(self.points)
        self.points.append(Point(number, self.step, what))
        if number == self._asks_at:
            self.world.later(0.0, lambda: self._person.ask("cancel", self._subject))
            if self._is_forgotten:
                self._kept = Copy(redis.Redis(connection_pool=self.world.pool))
        if number == self._back_to:
            self._kept = Copy(redis.Redis(connection_pool=self.world.pool))
        if number == self._dies_at and self._stalls:
            self.world.tell(f"stalls before {what} in {self.step}")
            self.world.hire("w2")
            self.world.wake(_JOB, _LEASE_IS_OVER)
            self.world.sleep(_LEASE_IS_OVER + 1)
        elif number == self._dies_at:
            self.world.tell(f"dies before {what} in {self.step}")
            self.world.kill(worker, back_in=1.0)
            if self._kept is not None:
                self.world.roll_back(self._kept, away=2.0)
                if self._cancels:
                    self.world.later(0.5, lambda: self._person.ask("cancel", self._subject))


def points(
    pool: redis.ConnectionPool,
    itinerary: Itinerary,
    retire: Retire = Retire.STOP,
    *,
    mode: Mode = Mode.AUTO,
    proof: str = "true",
    product: str = "lxd",
) -> list[Point]:
    """Every place in which a worker can die on this way. Raises AssertionError if the way is not gone well."""
    with scripts_in_virtual_time():
        run = _Run(pool, itinerary, None, retire, mode=mode, proof=proof, product=product)
        with _staged(run):
            violations = run.play()
    assert violations == [], "\n".join([*violations, *story(run.world)])
    return run.points


def dies(
    pool: redis.ConnectionPool,
    itinerary: Itinerary,
    point: Point,
    retire: Retire = Retire.STOP,
    *,
    back_to: Point | None = None,
    cancels: bool = False,
    mode: Mode = Mode.AUTO,
    proof: str = "true",
    product: str = "lxd",
) -> list[str]:
    """What is wrong after a death at this point, with the story if anything is."""
    with scripts_in_virtual_time():
        back = back_to.number if back_to else None
        run = _Run(
            pool,
            itinerary,
            point.number,
            retire,
            back_to=back,
            cancels=cancels,
            mode=mode,
            proof=proof,
            product=product,
        )
        with _staged(run):
            violations = run.play()
        died = any(text.startswith("dies before") for _, text in run.world.story)
    assert died, f"{point} was not met"
    where = f"{point}, back to {back_to}" if back_to else str(point)
    return [f"{where}: {violation}" for violation in violations] + (story(run.world) if violations else [])


def stalls(pool: redis.ConnectionPool, itinerary: Itinerary, point: Point, *, product: str = "lxd") -> list[str]:
    """What is wrong after a worker was held up at this point for longer than a lease."""
    with scripts_in_virtual_time():
        run = _Run(pool, itinerary, point.number, Retire.STOP, stalls=True, product=product)
        with _staged(run):
            return [f"{point}: {violation}" for violation in run.play()]


def cancels(
    pool: redis.ConnectionPool, itinerary: Itinerary, point: Point, *, dies: bool, product: str = "lxd"
) -> tuple[list[str], State]:
    """What is wrong after a person cancelled at this point, where the worker ``dies`` or not; and how the job ended."""
    with scripts_in_virtual_time():
        dies_at = point.number if dies else None
        run = _Run(pool, itinerary, dies_at, Retire.STOP, asks_at=point.number, product=product)
        with _staged(run):
            violations = run.play()
            (job,) = run.world.jobs()
    return [f"{point}, dies: {dies}: {violation}" for violation in violations], job.state


def forgets(pool: redis.ConnectionPool, itinerary: Itinerary, point: Point) -> list[str]:
    """What is wrong after a cancel at this point was carried out and then forgotten, with the story if anything is."""
    with scripts_in_virtual_time():
        run = _Run(pool, itinerary, None, Retire.STOP, asks_at=point.number, is_forgotten=True)
        with _staged(run):
            violations = run.play()
    return [f"{point}: {violation}" for violation in violations] + (story(run.world) if violations else [])


def rollbacks(known: list[Point]) -> Iterator[tuple[Point, Point]]:
    """``(dies at, back to)``: every effect that has no checkpoint yet, with every checkpoint before it."""
    for last in known:
        if last.when == "checkpoint":
            yield from ((last, first) for first in known[: last.number] if first.when == "after")


@contextmanager
def _staged(run: _Run) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(virtual_waits(run.world))
        stack.enter_context(mock.patch.object(workers.runner, "STEPS", _Steps(run)))
        stack.callback(run.world.close)
        stack.callback(run.close)
        yield


def _scenario(itinerary: Itinerary, retire: Retire, mode: Mode, proof: str, product: str) -> Scenario:
    # Of two methods that go the same way, such as cold and stateful, the first one is played.
    ways = [pair for ways in (FORWARD, WITH_VOLUMES) for pair in ways.items()]
    methods = {way.name: method for method, way in reversed(ways)}
    methods |= dict.fromkeys((GIVE_BACK_BACKUP.name, UNDO_BACKUP.name), Method.BACKUP)
    methods |= dict.fromkeys((way.name for way in _BETWEEN_HOOKS), Method.ARCHIVE)
    methods |= dict.fromkeys((GIVE_BACK_DRILL.name, UNDO_DRILL.name), Method.DRILL)
    servers = (Server("s1", "btrfs", 60e6), Server("s2", "btrfs", 60e6, product))
    if itinerary in _WAYS_OF_VOLUMES:
        method = methods.get(itinerary.name, Method.VOLUME_REFRESH)
        box = Box(name="box1", source="s1", target="s2", mib=20, method=method, retire=retire, mode=mode)
        return Scenario(1, servers, (), (timedelta(0),), Limits(), boxes=(box,))
    method = methods.get(itinerary.name, Method.WARM)
    is_backup = method in (Method.BACKUP, Method.ARCHIVE)
    is_bare = itinerary in (*FORWARD.values(), *_BETWEEN_HOOKS, GIVE_BACK_BACKUP, UNDO_BACKUP, GIVE_BACK_DRILL)
    machine = Machine(
        name="c1", source="s1", target="s2", runs=True, mib=20, guest=Guest(writes_per_second=5.0), snapshots=1,
        autostart="true", method=method, retire=retire, after_grace=AfterGrace.FORCE, mode=mode,
        volumes=int(not is_bare), nights=int(is_backup), keeps=int(is_backup),
        hook=_HOOK if is_backup else Hook(), proof=proof,
    )  # fmt: skip
    return Scenario(1, servers, (machine,), (timedelta(0),), Limits())


def _subject(scenario: Scenario) -> str:
    """What the job is about, as a person names it."""
    if scenario.boxes:
        return scenario.boxes[0].place
    (machine,) = scenario.machines
    return machine.earlier if machine.method is Method.DRILL else machine.name


def _any_job() -> Job:
    return a_job()
