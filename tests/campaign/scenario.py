"""What one seed stands for: servers, instances, plans, what people ask for, and what goes wrong when."""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from common.domain.generation import BackupOrder, Hook, origin
from common.domain.plan import AfterGrace, Limits, Method, Mode, Policy, Retire
from common.domain.retention import Retention
from tests.simulator import Guest

SERVERS = ("s1", "s2", "s3")


@dataclass(frozen=True)
class Server:
    """One of ``incus`` crashes if one of ``lxd`` sends it a custom volume."""

    name: str
    driver: str
    bandwidth: float
    product: str = "lxd"


@dataclass(frozen=True)
class Machine:
    """An instance, where it is and where it shall go."""

    name: str
    source: str
    target: str
    runs: bool
    mib: int
    guest: Guest
    snapshots: int
    autostart: str
    method: Method | None
    retire: Retire
    after_grace: AfterGrace
    mode: Mode = Mode.AUTO
    rate: int = 0
    volumes: int = 0
    nights: int = 0  # runs of a backup, ``gap`` seconds apart
    gap: float = 0.0
    run_by: str = "nightly"  # the name of the policy of its backups
    keeps: int = 0  # generations that its policy keeps on the target; 0: all
    hook: Hook = field(default_factory=Hook)  # of its backups
    proof: str = "true"  # the command of its drill

    @property
    def is_copied(self) -> bool:
        return self.method in (Method.COPY, Method.REFRESH, Method.BACKUP, Method.ARCHIVE, Method.DRILL)

    @property
    def origin(self) -> str:
        return origin(self.source, "default", self.name)

    def order(self, night: int) -> BackupOrder:
        """Of the run of a night; night -1 was before the trial began."""
        at = datetime(2025, 6, 1, tzinfo=UTC) + timedelta(days=night)
        return BackupOrder(policy=self.run_by, at=at, keep_on_target=Retention(last=self.keeps), hook=self.hook)

    @property
    def orders(self) -> tuple[BackupOrder, ...]:
        """Of all its nights."""
        return tuple(self.order(night) for night in range(self.nights))

    @property
    def shelves(self) -> tuple[str, ...]:
        """The custom volumes that it attaches, as ``POOL/NAME``."""
        return tuple(f"default/{self.name}-{number}" for number in range(self.volumes))

    @property
    def earlier(self) -> str:
        """The generation that its target has when the trial begins."""
        return self.order(-1).generation_of(self.origin)

    @property
    def policy(self) -> Policy:
        return Policy(
            method=self.method if self.runs or self.is_copied else None,
            grace=timedelta(seconds=5),
            after_grace=self.after_grace,
            retire=self.retire,
            mode=self.mode,
            rate=self.rate,
            stall=timedelta(seconds=60),
        )


@dataclass(frozen=True)
class Box:
    """A custom volume that goes by itself. What it refreshes is on the target already."""

    name: str
    source: str
    target: str
    mib: int
    method: Method
    retire: Retire = Retire.STOP
    mode: Mode = Mode.AUTO

    @property
    def place(self) -> str:
        return f"default/{self.name}"


@dataclass(frozen=True)
class Wish:
    """What a person asks for: ``cancel``, ``pause`` or ``undo`` of the job of a machine or box, so many seconds on."""

    kind: str
    machine: str
    at: float


@dataclass(frozen=True)
class Strike:
    """One thing that goes wrong. What ``where``, ``at`` and the others mean is up to its kind; see ``mishaps``."""

    kind: str
    at: float
    server: str
    machine: str
    worker: int
    nth: int
    seconds: float
    request: str
    mib: float
    by: str


@dataclass(frozen=True)
class Scenario:
    """Everything that a seed decides before the trial begins.

    Of each pair of ``walls`` the first server cannot reach the second.
    """

    seed: int
    servers: tuple[Server, ...]
    machines: tuple[Machine, ...]
    workers: tuple[timedelta, ...]
    limits: Limits
    wishes: tuple[Wish, ...] = ()
    strikes: tuple[Strike, ...] = field(default=())
    walls: tuple[tuple[str, str], ...] = ()
    boxes: tuple[Box, ...] = ()


#: Kinds that the simulator knows how to do to one request.
OF_REQUESTS = ("refuse", "busy", "delay", "cut-before", "cut-after", "half-response", "silent-after")
OF_SERVERS = ("kill-source", "kill-target", "freeze", "cut-transfers", "disk-full", "forget", "rotate")
OF_INSTANCES = ("stop-hangs", "start-fails")
OF_WORKERS = ("worker-killed", "worker-frozen", "clock-skew")
OF_REDIS = (
    "redis-restarted",
    "redis-emptied",
    "redis-read-only",
    "redis-out-of-memory",
    "redis-failed-over",
    "redis-answer-lost",
)
OF_MESSAGES = ("wake-up-lost", "wake-up-doubled", "wake-up-late", "wake-ups-reordered", "event-lost")
KINDS = (*OF_REQUESTS, *OF_SERVERS, *OF_INSTANCES, *OF_WORKERS, *OF_REDIS, *OF_MESSAGES)

_REQUESTS = (
    r"POST /1\.0/instances$",
    r"POST /1\.0/instances/[^/]+$",
    r"POST /1\.0/instances/[^/]+/snapshots",
    r"PUT /1\.0/instances/[^/]+/state",
    r"PUT /1\.0/instances/[^/]+$",
    r"PATCH ",
    r"PUT /1\.0/profiles",
    r"POST /1\.0/profiles",
    r"DELETE ",
    r"^(POST|PUT|PATCH|DELETE) ",
    r"^(POST|PUT|PATCH|DELETE) ",
    r"^GET ",
)
_SCRIPTS = ("commit", "commit", "commit", "claim", "renew", "complete", "acquire")


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    dice = random.Random(seed)
    names = SERVERS[: dice.choice([2, 2, 3])]
    servers = tuple(
        Server(name, dice.choice(["btrfs", "btrfs", "dir"]), dice.choice([20e6, 60e6, 200e6])) for name in names
    )
    machines = tuple(_machine(dice, f"c{number + 1}", names) for number in range(dice.randint(3, 6)))
    strikes = tuple(_strike(dice, dice.choice(KINDS), names, machines) for _ in range(dice.randint(3, 9)))
    skewed = any(strike.kind == "clock-skew" for strike in strikes)
    workers = tuple(
        timedelta(seconds=dice.uniform(-120, 120)) if skewed else timedelta(0) for _ in range(dice.choice([2, 2, 3]))
    )
    wishes = tuple(
        Wish(
            dice.choice(["cancel", "cancel", "pause", "undo", "undo"]),
            dice.choice(machines).name,
            dice.uniform(0.2, 20),
        )
        for _ in range(dice.choice([0, 0, 1, 2]))
    )
    limits = Limits(per_source=dice.randint(1, 3), per_target=dice.randint(1, 3), cutovers=dice.randint(1, 4))
    walls, machines = _roads(random.Random(f"roads of {seed}"), machines)
    shelves = random.Random(f"volumes of {seed}")
    # A refresh leaves the volumes of the copy as they are.
    drawn = [0 if each.method is Method.REFRESH else shelves.choice([0, 0, 1, 2]) for each in machines]
    machines = tuple(replace(each, volumes=count) for each, count in zip(machines, drawn, strict=True))
    nights = random.Random(f"backups of {seed}")
    machines = tuple(_backed_up(nights, each) if nights.random() < 0.25 else each for each in machines)
    kept = random.Random(f"volumes of backups of {seed}")
    machines = tuple(replace(m, volumes=kept.choice([0, 0, 1, 2])) if m.nights else m for m in machines)
    boxes, of_boxes = _boxes(random.Random(f"boxes of {seed}"), names, walls)
    products = random.Random(f"products of {seed}")
    servers = tuple(replace(each, product=products.choice(["lxd", "lxd", "incus"])) for each in servers)
    of = {each.name: each.product for each in servers}
    # A backup leaves volumes out that would have to go as backups of the server's.
    left = {m.name for m in machines if m.nights and (of[m.source], of[m.target]) == ("lxd", "incus")}
    machines = tuple(replace(each, volumes=0) if each.name in left else each for each in machines)
    return Scenario(seed, servers, machines, workers, limits, (*wishes, *of_boxes), strikes, walls, boxes)


def _boxes(
    dice: random.Random, servers: tuple[str, ...], walls: tuple[tuple[str, str], ...]
) -> tuple[tuple[Box, ...], tuple[Wish, ...]]:
    """From dice of their own, and what people ask for about them."""
    boxes, wishes = [], []
    for number in range(dice.choice([0, 1, 1, 2])):
        source, target = dice.sample(servers, 2)
        box = Box(
            name=f"box{number + 1}",
            source=source,
            target=target,
            mib=dice.choice([1, 20, 60, 200]),
            method=dice.choice([Method.VOLUME_MOVE, Method.VOLUME_COPY, Method.VOLUME_REFRESH]),
            retire=dice.choice([Retire.STOP, Retire.DELETE]),
        )
        boxes.append(replace(box, mode=dice.choice(_open_modes(box, set(walls)))))
        if dice.random() < 0.3:
            wishes.append(Wish(dice.choice(["cancel", "cancel", "pause"]), box.place, dice.uniform(0.2, 20)))
    return tuple(boxes), tuple(wishes)


def _roads(
    dice: random.Random, machines: tuple[Machine, ...]
) -> tuple[tuple[tuple[str, str], ...], tuple[Machine, ...]]:
    """Walls that leave every machine a way, and in which mode each moves; from dice of their own."""
    walls: set[tuple[str, str]] = set()
    for machine in machines:
        if dice.random() < 0.2:
            walls.add((machine.target, machine.source))
    return tuple(sorted(walls)), tuple(replace(each, mode=dice.choice(_open_modes(each, walls))) for each in machines)


def _backed_up(dice: random.Random, machine: Machine) -> Machine:
    return replace(
        machine,
        method=Method.BACKUP,
        volumes=0,
        autostart="",
        nights=dice.choice([1, 2, 2, 3]),
        gap=dice.choice([0.5, 5.0, 20.0]),
        keeps=dice.choice([0, 0, 1, 2]),
    )


def _open_modes(machine: Machine | Box, walls: set[tuple[str, str]]) -> list[Mode]:
    pulls = [] if (machine.target, machine.source) in walls else [Mode.PULL]
    pushes = [] if (machine.source, machine.target) in walls else [Mode.PUSH]
    return [Mode.AUTO, Mode.RELAY, *pulls, *pushes]


def _machine(dice: random.Random, name: str, servers: tuple[str, ...]) -> Machine:
    source, target = dice.sample(servers, 2)
    runs = dice.random() < 0.8
    method = dice.choice([None, None, Method.WARM, Method.COLD, Method.COPY, Method.REFRESH])
    is_copied = method in (Method.COPY, Method.REFRESH)
    guest = Guest(
        writes_per_second=dice.choice([0.0, 2.0, 20.0]),
        stops_in=dice.choice([0.13, 0.13, 0.6, 2.5, None]),
        deletes_files=dice.random() < 0.1,
    )
    return Machine(
        name=name,
        source=source,
        target=target,
        runs=runs,
        mib=dice.choice([1, 20, 60, 200]),
        guest=guest,
        snapshots=dice.choice([0, 0, 1, 2]),
        # One that starts with its daemon would not be stopped at the end; nor would its copy.
        autostart=dice.choice(["", "", "true", "false"]) if runs and not is_copied else "",
        method=method,
        retire=dice.choice([Retire.STOP, Retire.STOP, Retire.DELETE]),
        after_grace=dice.choice([AfterGrace.FORCE, AfterGrace.FORCE, AfterGrace.GIVE_BACK]),
    )


def _strike(dice: random.Random, kind: str, servers: tuple[str, ...], machines: tuple[Machine, ...]) -> Strike:
    machine = dice.choice(machines)
    server = {"kill-source": machine.source, "kill-target": machine.target}.get(kind, dice.choice(servers))
    return Strike(
        kind=kind,
        at=dice.choice([dice.uniform(0.0, 3.0), dice.uniform(0.0, 20.0)]),
        server=machine.source if kind == "stop-hangs" else server,
        machine=machine.name,
        worker=dice.randint(0, 2),
        nth=dice.choice([dice.randint(1, 6), dice.randint(1, 60)]),
        seconds=dice.choice([dice.uniform(0.2, 4.0), dice.uniform(5.0, 45.0)]),
        request=dice.choice(_SCRIPTS if kind == "redis-answer-lost" else _REQUESTS),
        mib=dice.uniform(0.0, machine.mib),
        by=dice.choice(["time", "request", "bytes"]),
    )
