"""One trial: what a seed stands for is made, goes wrong, comes to rest and is judged."""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import SimpleNamespace, TracebackType
from typing import Any, Self
from unittest import mock

import redis

from common.config import Settings
from common.domain.errors import HerderError, PreflightRefused
from common.domain.fleet import Fleet as Seen
from common.domain.generation import Generation
from common.domain.itinerary import BRING_BACK
from common.domain.job import Job, State
from common.domain.plan import Method, Overrides, Policy, Request, Retire, Selection
from common.lxd.client import LxdClient
from common.lxd.survey import survey
from producer import control, recover
from producer.archiving import plan_export
from producer.drilling import Terms, plan_drills, request_for
from producer.planner import make_plan
from producer.submit import submit
from producer.volumes import plan_volumes
from tests.campaign import mishaps
from tests.campaign.checker import COPY_OF, Before, Ending, before, check
from tests.campaign.line import scripts_in_virtual_time
from tests.campaign.scenario import Box, Machine, Scenario
from tests.campaign.shelves import boxes_before, check_boxes
from tests.campaign.vault import back_up_earlier, check_backups
from tests.campaign.world import Restless, World, virtual_waits
from tests.simulator import MIB
from tests.simulator.model import Data, Instance, Snapshot

#: After so many seconds nothing more goes wrong.
FAULTS_LAST = 60.0
#: For what comes late: offers that nobody takes, deletions, daemons that try to start what they may not.
_AFTERMATH = 150.0
_ROUNDS = 6

#: Why a job may wait for a person, by what went wrong.
EXCUSES = {
    "disk-full": {"out_of_space", "transfer_failed", "preflight_refused"},
    "rotate": {"not_trusted", "transfer_failed"},
    "stop-hangs": {"stop_refused", "transfer_failed", "server_refused"},
    "start-fails": {"transfer_failed"},
}


@dataclass
class Result:
    """What came of a trial: violations in words, faults by kind, and its story, a line each."""

    seed: int
    violations: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(scenario: Scenario, pool: redis.ConnectionPool) -> Result:
    """Try it."""
    result = Result(scenario.seed)
    with ExitStack() as stack:
        stack.enter_context(scripts_in_virtual_time())
        world = World(pool, scenario.seed)
        stack.enter_context(virtual_waits(world))
        stack.enter_context(recovery_asks(world))
        stack.callback(world.close)
        try:
            _play(world, scenario, result)
        except Exception as error:  # noqa: BLE001 - told with its seed, and the campaign goes on
            result.violations.append(f"crashed: {''.join(traceback.format_exception(error))}")
    result.seconds = world.now()
    result.faults = _counted(world, scenario)
    result.story = story(world)
    return result


def _play(world: World, scenario: Scenario, result: Result) -> None:
    were, boxes = build(world, scenario), boxes_before(world.fleet, scenario.boxes)
    person = Person(world)
    for number, machine in enumerate(scenario.machines, 1):
        person.submit(f"p{number}", machine, scenario)
        for night in range(1, machine.nights):
            person.submit_later(machine.gap * night, f"p{number}n{night}", machine, scenario, night)
    for number, box in enumerate(scenario.boxes, 1):
        person.submit_box(f"b{number}", box, scenario)
    for number, skew in enumerate(scenario.workers, 1):
        world.hire(f"w{number}", skew)
    mishaps.arrange(world, scenario, person.recover)
    for wish in scenario.wishes:
        world.later(wish.at, lambda wish=wish: person.ask(wish.kind, wish.machine))  # type: ignore[misc]
    world.later(FAULTS_LAST, world.calm_down)
    try:
        world.run_until_rest()
        world.calm_down()
        result.violations += person.unexcused(scenario)
        person.put_right()
    except Restless as restless:
        result.violations.append(str(restless))
    world.settle(_AFTERMATH)
    endings = person.endings()
    result.states = Counter(ending.state or "unknown" for ending in endings)
    result.violations += check(world.fleet, were, endings) + check_boxes(world.fleet, boxes, endings) + world.protests
    for machine in scenario.machines:
        if machine.method is Method.BACKUP:
            result.violations += check_backups(world.fleet, machine, person.states(machine), forgets=person.forgets)
    result.violations += [f"{e.instance} stays parked: {e.why}" for e in endings if e.state == "parked"]


def build(world: World, scenario: Scenario) -> dict[str, Before]:
    """The servers with their instances and their volumes."""
    for each in scenario.servers:
        server = world.fleet.add(each.name, driver=each.driver, bandwidth=each.bandwidth)
        if each.product == "incus":
            server.product, server.version = "incus", "6.0.4"
    world.fleet.walls.update(scenario.walls)
    for machine in scenario.machines:
        _launch(world, machine)
    for box in scenario.boxes:
        _shelve(world, box)
    world.clock.advance(0.5)
    return before(world.fleet)


def _shelve(world: World, box: Box) -> None:
    world.fleet.add_volume(box.source, box.name, size=box.mib * MIB).config["user.tier"] = "1"
    if box.method is Method.VOLUME_REFRESH:
        old = world.fleet.add_volume(box.target, box.name, size=box.mib * MIB)
        old.config["user.own"] = "1"
        old.snapshots["gone"] = old.snapshots.pop("first")


def _launch(world: World, machine: Machine) -> None:
    config = {"boot.autostart": machine.autostart} if machine.autostart else {}
    volumes = [place.partition("/")[2] for place in machine.shelves]
    for name in volumes:
        world.fleet.add_volume(machine.source, name, size=machine.mib * MIB // 2, guest=machine.guest)
    made = world.fleet.launch(
        machine.source,
        machine.name,
        size=machine.mib * MIB,
        guest=machine.guest,
        config=config,
        devices={v: {"type": "disk", "pool": "default", "source": v, "path": f"/{v}"} for v in volumes},
        runs=machine.runs,
    )
    for number in range(machine.snapshots):
        data = made.data
        assert data
        old = Data(data.generation, -10 * (machine.snapshots - number), data.size)
        name = f"snap{number}"
        made.snapshots[name] = Snapshot(name, world.now() - 1000 + number, dict(made.config), {}, old)
    if machine.method is Method.REFRESH:
        _copy_earlier(world, machine, made)
    if machine.method in (Method.BACKUP, Method.DRILL):
        back_up_earlier(world.fleet, machine, made)


def _copy_earlier(world: World, machine: Machine, source: Instance) -> None:
    """An older copy, which has the first snapshot of its source, and one that its source has no more."""
    config = {COPY_OF: source.config["volatile.uuid"], "user.own": "1", "boot.autostart": "false"}
    made = world.fleet.launch(machine.target, machine.name, size=machine.mib * MIB, config=config, runs=False)
    data = source.data
    assert data
    made.data, made.guest = Data(data.generation, -100, data.size), source.guest
    first = next(iter(source.snapshots.values()), None)
    if first is not None:
        made_at = world.fleet.clock.whole_second(first.created_at)
        made.snapshots[first.name] = replace(first, created_at=made_at, received=True)
    made.snapshots["gone"] = Snapshot("gone", world.now() - 2000, dict(made.config), {}, made.data)


class Person:
    """Who plans, asks, and does what the hints say."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ended: dict[str, Job] = {}
        self._forgotten: dict[str, Ending] = {}
        world.remember = self.remember

    def submit_later(self, seconds: float, plan_id: str, machine: Machine, scenario: Scenario, night: int) -> None:
        """The run of a later night; one that cannot be planned is tried again as long as things go wrong."""

        def try_it() -> None:
            try:
                self.submit(plan_id, machine, scenario, night)
            except (redis.RedisError, HerderError) as error:
                self._world.tell(f"{plan_id} waits: {error}")
                if self._world.now() < FAULTS_LAST:
                    self._world.later(5.0, try_it)

        self._world.later(seconds, try_it)

    def submit(self, plan_id: str, machine: Machine, scenario: Scenario, night: int = 0) -> None:
        """Plan the move of one machine and have it begin."""
        if machine.method in (Method.DRILL, Method.ARCHIVE):
            (self._submit_drill if machine.method is Method.DRILL else self._submit_archive)(plan_id, machine)
            return
        request = Request(
            name=plan_id,
            select=Selection(source=machine.source, instances=(machine.name,)),
            targets=(machine.target,),
            policy=machine.policy,
            limits=scenario.limits,
            overrides=Overrides(profiles=()) if machine.nights else Overrides(),
            backup=machine.order(night) if machine.nights else None,
        )
        names = (machine.source, machine.target)
        seen = {name: survey(self._world.client_of(name), projects=("default",)) for name in names}
        plan = make_plan(request, Seen(seen_at=self._world.clock.moment(), servers=seen), plan_id=plan_id)
        if not plan.moves:
            raise PreflightRefused(str(plan.refusals))
        self._forgotten[machine.name] = Ending(
            instance=machine.name,
            state="forgotten",
            source=machine.source,
            target=machine.target,
            keeps_source=machine.retire is Retire.STOP,
            is_copy=machine.is_copied,
            is_backup=machine.nights > 0,
        )
        submit(plan, self._world.store)

    def _submit_archive(self, plan_id: str, machine: Machine) -> None:
        seen = survey(self._world.client_of(machine.source), projects=("default",))
        wanted = [each for each in seen.instances if each.name == machine.name]
        request = Request(
            name=plan_id,
            select=Selection(source=machine.source, instances=(machine.name,)),
            policy=Policy(method=Method.ARCHIVE),
            overrides=Overrides(instance_only=True),
            archive=machine.target,
            backup=machine.order(0),
        )
        fleet = Seen(seen_at=self._world.clock.moment(), servers={machine.source: seen})
        plan = plan_export(request, wanted, fleet, None, {("default", machine.name): (0, 0)}, plan_id=plan_id)
        assert plan.moves, plan.refusals
        submit(plan, self._world.store)

    def _submit_drill(self, plan_id: str, machine: Machine) -> None:
        seen = survey(self._world.client_of(machine.target), projects=("default",))
        (generation,) = filter(None, (Generation.of(each, machine.target) for each in seen.instances))
        terms = Terms(at=self._world.clock.moment(), command=(machine.proof,), timeout=timedelta(seconds=3))
        fleet = Seen(seen_at=self._world.clock.moment(), servers={machine.target: seen})
        request = request_for([generation], terms, plan_id)
        plan = plan_drills(request, fleet, [generation], terms, plan_id=plan_id)
        assert plan.moves, plan.refusals
        submit(plan, self._world.store)

    def submit_box(self, plan_id: str, box: Box, scenario: Scenario) -> None:
        """Plan what becomes of one volume and have it begin."""
        request = Request(
            name=plan_id,
            select=Selection(source=box.source, instances=(box.place,)),
            targets=(box.target,),
            policy=Policy(method=box.method, retire=box.retire, mode=box.mode),
            limits=scenario.limits,
        )
        names = (box.source, box.target)
        seen = {name: survey(self._world.client_of(name), projects=("default",)) for name in names}
        plan = plan_volumes(request, Seen(seen_at=self._world.clock.moment(), servers=seen), plan_id=plan_id)
        assert plan.moves, plan.refusals
        self._forgotten[box.place] = Ending(
            instance=box.place,
            state="forgotten",
            source=box.source,
            target=box.target,
            keeps_source=box.retire is Retire.STOP,
            is_copy=box.method.is_copy,
        )
        submit(plan, self._world.store)

    def ask(self, kind: str, machine: str) -> None:
        """Cancel, pause or undo the job of a machine or a box, if it can be."""
        for job in self._jobs().values():
            if job.move.instance != machine or (kind == "undo" and job.move.policy.retire is Retire.DELETE):
                continue
            try:
                asked = {"cancel": control.cancel, "pause": control.pause, "undo": control.undo}[kind]
                (answer,) = asked(job.id, self._world.store)
            except redis.RedisError as error:
                self._world.tell(f"{kind} of {job.id}: {error}")
                continue
            self._world.tell(f"{kind} of {job.id}: {answer.done or answer.refused}")
            if kind == "pause":
                self._world.later(10.0, lambda job=job: self._resume(job.id))  # type: ignore[misc]

    def _resume(self, job_id: str) -> None:
        try:
            if self._world.store.job(job_id) is not None:
                control.resume(job_id, self._world.store)
                self._world.tell(f"resume of {job_id}")
        except redis.RedisError:
            self._world.later(5.0, lambda: self._resume(job_id))

    def recover(self) -> None:
        """``herder recover``: what is missing in Redis is found on the servers."""
        try:
            found = recover.find(
                SimpleNamespaceRemotes(self._world),  # type: ignore[arg-type]
                Settings(),
                self._world.store,
                new_plan_id=lambda: f"r{len(self._world.story)}",
            )
            recover.restore(found, self._world.store)
            self._thaw(found.notes)
        except redis.RedisError as error:
            self._world.tell(f"recover: {error}")
            self._world.later(5.0, self.recover)
            return
        jobs = ", ".join(f"{job.id} at {job.step}" for job in found.jobs)
        self._world.tell(f"recover: {jobs or 'nothing'}; {'; '.join(found.notes)}")

    def _thaw(self, notes: tuple[str, ...]) -> None:
        """As the notes say."""
        for note in notes:
            place, is_frozen, _ = note.partition(" is frozen, ")
            if is_frozen:
                remote, _, name = place.partition(":")
                client = self._world.client_of(remote)
                client.wait(client.unfreeze(name), timeout_seconds=10)
                self._world.tell(f"thaws {place}")

    def unexcused(self, scenario: Scenario) -> list[str]:
        """Jobs that wait for a person although nothing has gone wrong that a person must mend."""
        excused: set[str] = set()
        for strike in scenario.strikes:
            excused |= EXCUSES.get(strike.kind, set())
        found = []
        for job in self._jobs().values():
            if job.state is not State.PARKED or job.error is None or job.error.code in excused:
                continue
            if job.error.code == "stop_refused":
                continue
            found.append(f"{job.id} is parked without need at {job.step}: {job.error.code}: {job.error.message}")
        return found

    def put_right(self) -> None:
        """Do what the hints say until nothing is left to do. Raises Restless."""
        for number in range(_ROUNDS):
            self._world.trust_again()
            self._world.settle(20.0)
            if self._world.happened["redis-emptied"] and not number:
                self.recover()
            jobs = self._jobs().values()
            waiting = [job for job in jobs if job.state in (State.PARKED, State.PAUSED)]
            if not waiting and not self._world.jobs_at_work():
                return
            for job in waiting:
                self._mend(job)
            self._world.run_until_rest()

    def _mend(self, job: Job) -> None:
        if job.error is not None and job.error.code == "stop_refused":
            # The guest is made to obey, as the hint asks.
            for server in self._world.fleet.servers.values():
                if ("default", job.move.instance) in server.instances:
                    made = server.instances["default", job.move.instance]
                    made.guest = type(made.guest)(
                        writes_per_second=made.guest.writes_per_second, bytes_per_write=made.guest.bytes_per_write
                    )
        act = control.resume if job.state is State.PAUSED else control.retry
        (answer,) = act(job.id, self._world.store)
        self._world.tell(f"{act.__name__} of {job.id}: {answer.done or answer.refused}")

    def _jobs(self) -> dict[str, Job]:
        return {job.id: job for job in self._world.jobs()}

    def remember(self) -> None:
        """Note how jobs have ended, before Redis forgets it."""
        self._ended |= {job.id: job for job in self._jobs().values() if job.state in (State.DONE, State.CANCELLED)}

    @property
    def forgets(self) -> bool:
        """Whether Redis has lost what jobs were there, and how they ended."""
        return self._world.outages.has_lost

    def states(self, machine: Machine) -> dict[str, str]:
        """How the backups of a machine, or its drills, ended, by the name of their generation."""
        jobs = {**self._ended, **self._jobs()}.values()
        if machine.method is Method.DRILL:
            return {job.move.instance: job.state.value for job in jobs if job.move.origin == machine.origin}
        return {job.move.generation: job.state.value for job in jobs if job.move.instance == machine.name}

    def endings(self) -> list[Ending]:
        """How each job ended, the last one of each instance."""
        known = {**self._ended, **self._jobs()}
        found = {job.move.instance: _ending(job) for job in known.values()}
        for job in known.values():  # each night of a backup may have set wrecks aside
            ending = found[job.move.instance]
            told = {*ending.wrecks, *job.facts.get("wrecks", ())}
            found[job.move.instance] = replace(ending, wrecks=tuple(sorted(told)))
        if self._world.outages.has_lost:
            found = {**self._forgotten, **found}
            found = {name: replace(each, may_forget_wrecks=True) for name, each in found.items()}
        return list(found.values())


def _ending(job: Job) -> Ending:
    return Ending(
        instance=job.move.instance,
        state=job.state.value,
        source=job.move.source,
        target=job.move.target,
        keeps_source=job.move.policy.retire is Retire.STOP,
        is_copy=job.move.is_copy,
        is_backup=job.move.backup is not None,
        back=job.itinerary == BRING_BACK.name,
        why=job.error.message if job.error else "",
        hint=job.error.hint if job.error else "",
        wrecks=tuple(job.facts.get("wrecks", ())),
    )


class SimpleNamespaceRemotes:
    """The remotes of a person: every server of the fleet."""

    def __init__(self, world: World) -> None:
        self._names = tuple(world.fleet.servers)

    def __iter__(self) -> Iterator[SimpleNamespace]:
        return iter([SimpleNamespace(name=name) for name in self._names])

    def get(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name)


class _InTurn:
    """A pool of threads without threads: a trial has one order of requests."""

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def map(self, work: Any, *over: Any) -> list[Any]:
        return list(map(work, *over))


@contextmanager
def recovery_asks(world: World) -> Iterator[None]:
    """Inside the block ``producer.recover`` asks the world's servers."""

    def connect(remote: SimpleNamespace, **_: Any) -> LxdClient:
        return world.client_of(remote.name)

    with ExitStack() as stack:
        for module in ("producer.recover", "producer.inventory"):
            stack.enter_context(mock.patch(f"{module}.connect", connect))
            stack.enter_context(mock.patch(f"{module}.ThreadPoolExecutor", _InTurn))
        yield


def _counted(world: World, scenario: Scenario) -> Counter[str]:
    """Faults that did happen, by kind; a killed daemon counts as what it was to the moves of its scenario."""
    found = Counter(world.happened) + world.outages.happened
    for kind, count in world.fleet.faults.happened.items():
        found[kind] += count
    kills = [strike for strike in scenario.strikes if strike.kind.startswith("kill-")]
    if found.pop("kill", 0):
        killed = {e.server for e in world.fleet.history() if e.kind == "daemon-killed"}
        for strike in kills:
            found[strike.kind] += strike.server in killed
    return +found


def story(world: World) -> list[str]:
    """What happened, a line each, in the order of time."""
    lines = [(at, f"              {what}") for at, what in world.story]
    for entry in world.fleet.history():
        if entry.kind in ("configured", "profile-changed"):
            continue
        detail = " ".join(f"{k}={v}" for k, v in entry.detail.items() if k not in ("config", "devices"))
        lines.append((entry.at, f"{entry.server:4} {entry.kind:18} {entry.instance} {detail}"))
    return [f"{at:9.3f} {line}" for at, line in sorted(lines, key=lambda each: each[0])]
