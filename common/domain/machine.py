"""How a virtual machine can move between two servers: the best method that both allow, and why not a better one. Pure.

Asked by ``eligibility`` for the method that a move has, and by ``producer.placement``, which chooses one. The criteria
are those of LXD's own guide to live migration, and what a saved memory needs besides: the same QEMU and processor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from common.domain.fleet import Server
from common.domain.instance import Devices, Instance, is_root_disk
from common.domain.plan import Finding, Method
from common.domain.units import parse_size

#: From the shortest downtime to the longest.
METHODS = (Method.LIVE, Method.STATEFUL, Method.COLD)
_ALL = frozenset(METHODS)
_WITH_MEMORY = frozenset({Method.LIVE, Method.STATEFUL})
_LIVE, _STATEFUL = frozenset({Method.LIVE}), frozenset({Method.STATEFUL})

#: The server moves memory with an instance; and it does while that runs.
_MOVES_MEMORY = {Method.STATEFUL: "migration_stateful", Method.LIVE: "migration_vm_live"}
#: What no change of the machine or of its servers mends.
_FOR_GOOD = "two_run"
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
        """As one writes it for the source's client."""
        return f"{self.source.remote}:{self.instance.name}"

    @property
    def client(self) -> str:
        """The command of the source's product."""
        return "incus" if self.source.info.product == "incus" else "lxc"

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
        for_good = [each.message for each in found if each.code == _FOR_GOOD]
        told = for_good or [f"{each.message} ({each.hint})" for each in found]
        reasons.append(f"not {method}: " + ", ".join(told))
    return METHODS[-1], "; ".join(reasons)


def _without_qemu(case: Case) -> str:
    return "" if case.target.info.qemu else f"{case.target.remote} cannot run virtual machines: it has no QEMU"


def _between_products(case: Case) -> str:
    ours, theirs = case.source.info.product, case.target.info.product
    if not ours or not theirs or ours == theirs:
        return ""
    return (
        f"{case.source.remote} is {ours} and {case.target.remote} {theirs}, and neither goes on with a memory of the "
        "other"
    )


def _saved_by_other_product(case: Case) -> str:
    is_saved = case.instance.is_stopped and case.instance.stateful
    return f"it was stopped with its memory: {_between_products(case)}" if is_saved and _between_products(case) else ""


def _not_stateful(case: Case) -> str:
    value = case.instance.expanded_config.get("migration.stateful", "")
    return "" if value.lower() in _TRUE else "migration.stateful is not set"


def _set_stateful(case: Case) -> str:
    return (
        f"stop it and `{case.client} config set {case.name} migration.stateful=true`; files are then shared with it by "
        "9P only, and a guest without 9P, such as CentOS 8, has neither them nor the agent"
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
    return f"stop it and `{case.client} config device {verb} {case.name} {name} size.state={case.memory}`"


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


def _too_small_on_local_pool(case: Case) -> str:
    pool = case.target.pools.get(case.pool)
    return "" if pool is not None and pool.driver in _SHARED_BY_SERVERS else _too_small_for_memory(case)


def _local_networks(case: Case) -> str:
    found = [
        name
        for name, device in case.devices.items()
        if device.get("type") == "nic" and (case.project, device.get("network", "")) not in case.target.ovn_networks
    ]
    return f"device {', '.join(found)} is on a network that is only on its server" if found else ""


def _cannot_move_memory(case: Case, method: Method) -> str:
    extension = _MOVES_MEMORY[method]
    lacking = [server.remote for server in (case.source, case.target) if extension not in server.info.extensions]
    verb = "lack" if len(lacking) > 1 else "lacks"
    return f"{' and '.join(lacking)} {verb} the API extension {extension}" if lacking else ""


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
        code=_FOR_GOOD,
        methods=_LIVE,
        unmet=lambda _: "servers that stand alone let the source go on when its copy runs: one machine twice",
        hint=lambda _: "leave `--method` out: it moves stateful or cold, whichever is possible",
    ),
    Criterion(
        code="other_product",
        methods=_WITH_MEMORY,
        unmet=_between_products,
        hint=lambda _: "`--method cold`",
    ),
    Criterion(
        code="other_product",
        methods=frozenset({Method.COLD}),
        unmet=_saved_by_other_product,
        hint=lambda case: f"`{case.client} start {case.name}`, and let its guest shut down",
    ),
    Criterion(code="not_stateful", methods=_WITH_MEMORY, unmet=_not_stateful, hint=_set_stateful),
    Criterion(code="size_state", methods=_STATEFUL, unmet=_too_small_for_memory, hint=_enlarge_state),
    Criterion(code="size_state", methods=_LIVE, unmet=_too_small_on_local_pool, hint=_enlarge_state),
    Criterion(
        code="local_volume",
        methods=_WITH_MEMORY,
        unmet=_local_volumes,
        hint=lambda _: "detach it, or `--method cold`",
    ),
    Criterion(
        code="local_network",
        methods=_LIVE,
        unmet=_local_networks,
        hint=lambda case: (
            f"`{case.client} config device set {case.name} NIC network=NAME` with an OVN network that both servers have"
        ),
    ),
    *(
        Criterion(
            code="extension",
            methods=frozenset({method}),
            unmet=partial(_cannot_move_memory, method=method),
            hint=lambda _: "upgrade it, or `--method cold`",
        )
        for method in (Method.LIVE, Method.STATEFUL)
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
