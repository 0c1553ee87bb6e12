"""How a virtual machine can move between two servers: the best method that both allow, and why not a better one. Pure.

Asked by ``eligibility`` for the method that a move has, and by ``producer.placement``, which chooses one. The criteria
are those of LXD's own guide to live migration, and what a saved memory needs besides: the same QEMU and processor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.domain.fleet import Server
from common.domain.instance import Devices, Instance, is_root_disk
from common.domain.plan import Finding, Method
from common.domain.units import parse_size

#: To who asks for a live move.
NOT_LIVE = (
    "nothing moves live: LXD 5.0 would stop the machine first, leave it stopped if the move broke, and start the copy "
    "while its source can start too; a stateful move keeps its memory, and it is down no longer. Of a container "
    "it needs CRIU, which is not to be relied on; a warm move restarts the guest"
)

#: From the shortest downtime to the longest.
METHODS = (Method.STATEFUL, Method.COLD)
_ALL = frozenset(METHODS)
_WITH_MEMORY = frozenset({Method.STATEFUL})

#: The server moves memory with an instance.
_MOVES_MEMORY = "migration_stateful"
#: LXD's own, for a virtual machine that has no limit.
_DEFAULT_MEMORY = "1GiB"
_SHARED_BY_SERVERS = frozenset({"ceph"})
_TRUE = frozenset({"1", "on", "true", "yes"})


@dataclass(frozen=True, kw_only=True)
class Case:
    """One virtual machine, its two servers, and the ``devices`` and the ``pool`` that it will have on the target."""

    instance: Instance
    source: Server
    target: Server
    devices: Devices
    pool: str
    project: str

    @property
    def name(self) -> str:
        """As one writes it for ``lxc``."""
        return f"{self.source.remote}:{self.instance.name}"

    @property
    def root(self) -> tuple[str, Mapping[str, str]]:
        """The device of the root disk, with its name."""
        found = ((name, device) for name, device in self.instance.expanded_devices.items() if is_root_disk(device))
        return next(found, ("root", {}))

    @property
    def memory(self) -> str:
        return self.instance.expanded_config.get("limits.memory") or _DEFAULT_MEMORY


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What must hold for these methods.

    ``unmet`` tells what does not hold, or returns nothing; ``hint`` how a person can change that.
    """

    code: str
    methods: frozenset[Method]
    unmet: Callable[[Case], str]
    hint: Callable[[Case], str]


def obstacles(case: Case, method: Method) -> tuple[Finding, ...]:
    """What stands in the way of moving this machine by this method."""
    return tuple(
        Finding(
            code=criterion.code,
            message=message,
            hint=criterion.hint(case),
        )
        for criterion in CRITERIA
        if method in criterion.methods and (message := criterion.unmet(case))
    )


def best_method(case: Case) -> tuple[Method, str]:
    """The first method against which nothing stands, and for each better one why it is not that."""
    reasons: list[str] = []
    for method in METHODS[:-1]:
        found = obstacles(case, method)
        if not found:
            return method, "; ".join(reasons)
        reasons.append(f"not {method}: " + ", ".join(f"{each.message} ({each.hint})" for each in found))
    return METHODS[-1], "; ".join(reasons)


def _without_qemu(case: Case) -> str:
    return "" if case.target.info.qemu else f"{case.target.remote} cannot run virtual machines: it has no QEMU"


def _of_other_products(case: Case) -> str:
    others = [server for server in (case.source, case.target) if server.info.product not in ("lxd", "")]
    return ", ".join(f"{server.remote} is {server.info.product}" for server in others)


def _not_stateful(case: Case) -> str:
    value = case.instance.expanded_config.get("migration.stateful", "")
    return "" if value.lower() in _TRUE else "migration.stateful is not set"


def _set_stateful(case: Case) -> str:
    return (
        f"stop it and `lxc config set {case.name} migration.stateful=true`; files are then shared with it by 9P only, "
        "and a guest without 9P, such as CentOS 8, has neither them nor the agent"
    )


def _too_small_for_memory(case: Case) -> str:
    state, memory = case.root[1].get("size.state", ""), case.memory
    try:
        if state and parse_size(state) >= parse_size(memory):
            return ""
    except ValueError:
        return f"limits.memory={memory} and size.state={state} cannot be compared"
    return f"size.state of its root disk is {state or 'not set'}, less than its memory of {memory}"


def _enlarge_state(case: Case) -> str:
    name, _ = case.root
    verb = "set" if name in case.instance.devices else "override"
    return f"stop it and `lxc config device {verb} {case.name} {name} size.state={case.memory}`"


def _local_volumes(case: Case) -> str:
    found = [
        name
        for name, device in case.devices.items()
        if device.get("type") == "disk" and device.get("path") != "/" and not _is_shared(case, device)
    ]
    return f"disk {', '.join(found)} is not part of it, and its memory may hold what is on it" if found else ""


def _is_shared(case: Case, device: Mapping[str, str]) -> bool:
    pool = case.target.pools.get(device.get("pool", ""))
    return pool is not None and pool.driver in _SHARED_BY_SERVERS


def _cannot_move_memory(case: Case) -> str:
    lacking = [server.remote for server in (case.source, case.target) if _MOVES_MEMORY not in server.info.extensions]
    verb = "lack" if len(lacking) > 1 else "lacks"
    return f"{' and '.join(lacking)} {verb} the API extension {_MOVES_MEMORY}" if lacking else ""


def _other_qemu(case: Case) -> str:
    ours, theirs = case.source.info.qemu, case.target.info.qemu
    if not ours or not theirs or ours.split(".")[:2] == theirs.split(".")[:2]:
        return ""
    return f"QEMU is {ours} on {case.source.remote} and {theirs} on {case.target.remote}"


def _other_processor(case: Case) -> str:
    """Where the servers tell them, the flags decide, else the model."""
    ours, theirs = case.source.processor, case.target.processor
    if ours is None or theirs is None:
        return ""
    if ours.flags and theirs.flags:
        lacking = sorted(ours.flags - theirs.flags)
        return f"the processor of {case.target.remote} lacks {', '.join(lacking)}" if lacking else ""
    if ours.model == theirs.model:
        return ""
    return f"the processor of {case.source.remote} is {ours.model}, that of {case.target.remote} {theirs.model}"


CRITERIA = (
    Criterion(
        code="no_qemu",
        methods=_ALL,
        unmet=_without_qemu,
        hint=lambda case: f"install QEMU on {case.target.remote} and restart its daemon, or choose another target",
    ),
    Criterion(
        code="virtual_machine",
        methods=_ALL,
        unmet=_of_other_products,
        hint=lambda _: "virtual machines move between servers of LXD only; stop it and use `incus copy`",
    ),
    Criterion(code="not_stateful", methods=_WITH_MEMORY, unmet=_not_stateful, hint=_set_stateful),
    Criterion(
        code="size_state", methods=frozenset({Method.STATEFUL}), unmet=_too_small_for_memory, hint=_enlarge_state
    ),
    Criterion(
        code="local_volume",
        methods=_WITH_MEMORY,
        unmet=_local_volumes,
        hint=lambda _: "detach it, or `--method cold`",
    ),
    Criterion(
        code="extension",
        methods=_WITH_MEMORY,
        unmet=_cannot_move_memory,
        hint=lambda _: "upgrade it, or `--method cold`",
    ),
    Criterion(
        code="qemu_version",
        methods=_WITH_MEMORY,
        unmet=_other_qemu,
        hint=lambda _: "install the same version on both, or `--method cold`",
    ),
    Criterion(
        code="processor",
        methods=_WITH_MEMORY,
        unmet=_other_processor,
        hint=lambda _: "choose a target with the same processor, or `--method cold`",
    ),
)
