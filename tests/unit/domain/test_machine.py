"""By which method a virtual machine can move, and what a person changes for a better one."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.fleet import Pool, Processor
from common.domain.instance import Instance
from common.domain.machine import CRITERIA, METHODS, Case, best_method, obstacles
from common.domain.plan import Finding, Method
from tests.builders import ROOT_DISK, a_server, a_server_info, an_instance

ROOT = ROOT_DISK | {"size.state": "2GiB"}
DATA = {"type": "disk", "pool": "default", "source": "data", "path": "/data"}
NIC = {"type": "nic", "network": "east"}
EVERYTHING = frozenset({"migration_stateful", "migration_vm_live"})
#: Whatever is asked of a live move, this is answered.
NEVER_LIVE = "servers that stand alone let the source go on when its copy runs: one machine twice"
GENOA, MILAN = Processor(model="AMD Genoa"), Processor(model="AMD Milan")


def a_machine(**changes: Any) -> Instance:
    """One that may move live: stateful, with room for its memory, on an OVN network."""
    config = {"migration.stateful": "true", "limits.memory": "2GiB"} | changes.pop("config", {})
    devices = {"root": ROOT, "eth0": NIC} | changes.pop("devices", {})
    return an_instance("vm1", type="virtual-machine", expanded_config=config, devices=devices, **changes)


def a_case(instance: Instance | None = None, **changes: Any) -> Case:
    """Nothing stands in its way: both servers can all, have the same QEMU, processor, pool and network."""
    machine = instance or a_machine()
    alike: dict[str, Any] = {"ovn_networks": frozenset({("default", "east")}), "processor": GENOA}
    servers = {
        side: a_server(remote, info=a_server_info(remote, extensions=EVERYTHING), **alike)
        for side, remote in (("source", "s1"), ("target", "s2"))
    }
    defaults: dict[str, Any] = {"devices": machine.expanded_devices, "pool": "default", "project": "default"}
    return Case(instance=machine, **(servers | defaults | changes))


def source_with(**info: Any) -> dict[str, Any]:
    return {"source": replace(a_case().source, info=a_server_info("s1", **({"extensions": EVERYTHING} | info)))}


def target_with(**info: Any) -> dict[str, Any]:
    return {"target": replace(a_case().target, info=a_server_info("s2", **({"extensions": EVERYTHING} | info)))}


def only(found: tuple[Finding, ...]) -> tuple[str, str, str]:
    """The one finding as code, message and hint; fails if there are more or none."""
    (finding,) = found
    return finding.code, finding.message, finding.hint


WITH_MEMORY = (Method.LIVE, Method.STATEFUL)
UNMET = [
    (
        "a target without QEMU",
        a_case(**target_with(qemu="")),
        METHODS,
        ("no_qemu", "s2 cannot run virtual machines: it has no QEMU", "install QEMU on s2"),
    ),
    (
        "a target that is Incus",
        a_case(**target_with(product="incus")),
        WITH_MEMORY,
        ("other_product", "s1 is lxd and s2 incus, and neither goes on with a memory of the other", "`--method cold`"),
    ),
    (
        "a target that is Incus, of one that was stopped with its memory",
        a_case(a_machine(status="Stopped", stateful=True), **target_with(product="incus")),
        METHODS,
        ("other_product", "s1 is lxd and s2 incus", ""),
    ),
    (
        "a machine that is not stateful",
        a_case(a_machine(config={"migration.stateful": "false"})),
        WITH_MEMORY,
        ("not_stateful", "migration.stateful is not set", "`lxc config set s1:vm1 migration.stateful=true`"),
    ),
    (
        "a disk without room for the memory",
        a_case(a_machine(devices={"root": ROOT_DISK | {"size.state": "1GiB"}})),
        WITH_MEMORY,
        (
            "size_state",
            "size.state of its root disk is 1GiB, less than its memory of 2GiB",
            "`lxc config device set s1:vm1 root size.state=2GiB`",
        ),
    ),
    (
        "a disk of a profile, without room for the memory that LXD gives to everybody",
        a_case(an_instance("vm1", type="virtual-machine", expanded_config={"migration.stateful": "on"}), devices={}),
        WITH_MEMORY,
        (
            "size_state",
            "size.state of its root disk is not set, less than its memory of 1GiB",
            "`lxc config device override s1:vm1 root size.state=1GiB`",
        ),
    ),
    (
        "memory that is a part of the server's",
        a_case(a_machine(config={"limits.memory": "50%"})),
        WITH_MEMORY,
        ("size_state", "limits.memory=50% and size.state=2GiB cannot be compared", "size.state="),
    ),
    (
        "a disk that stays behind",
        a_case(a_machine(devices={"data": DATA})),
        WITH_MEMORY,
        ("local_volume", "disk data is not part of it", "`--method cold`"),
    ),
    (
        "a server that does not move memory",
        a_case(**target_with(extensions=EVERYTHING - {"migration_stateful"})),
        (Method.STATEFUL,),
        ("extension", "s2 lacks the API extension migration_stateful", "upgrade it"),
    ),
    (
        "a server that moves memory of stopped machines only, as LXD 5.0",
        a_case(**target_with(extensions=frozenset({"migration_stateful"}))),
        (Method.LIVE,),
        ("extension", "s2 lacks the API extension migration_vm_live", "upgrade it"),
    ),
    (
        "a network that the target does not share",
        a_case(target=replace(a_case().target, ovn_networks=frozenset())),
        (Method.LIVE,),
        (
            "local_network",
            "device eth0 is on a network that is only on its server",
            "`lxc config device set s1:vm1 NIC network=NAME`",
        ),
    ),
    (
        "another QEMU",
        a_case(**target_with(qemu="8.2.1")),
        WITH_MEMORY,
        ("qemu_version", "QEMU is 7.2.22 on s1 and 8.2.1 on s2", "the same version on both"),
    ),
    (
        "another processor",
        a_case(target=replace(a_case().target, processor=MILAN)),
        WITH_MEMORY,
        ("processor", "the processor of s1 is AMD Genoa, that of s2 AMD Milan", "a target with the same processor"),
    ),
    (
        "a processor that can do less",
        a_case(
            source=replace(a_case().source, processor=Processor(model="a", flags=frozenset({"avx", "sse"}))),
            target=replace(a_case().target, processor=Processor(model="b", flags=frozenset({"sse"}))),
        ),
        WITH_MEMORY,
        ("processor", "the processor of s2 lacks avx", "a target with the same processor"),
    ),
]


def beyond_never(found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Without what is said of every live move."""
    return tuple(each for each in found if each.message != NEVER_LIVE)


@pytest.mark.parametrize("method", [Method.STATEFUL, Method.COLD])
def test_nothing_stands_in_the_way_of_a_machine_that_is_ready_for_it(method: Method) -> None:
    assert obstacles(a_case(), method) == ()


def test_a_live_move_is_refused_whatever_is_ready_for_it() -> None:
    assert only(obstacles(a_case(), Method.LIVE))[:2] == ("two_run", NEVER_LIVE)


@pytest.mark.parametrize(("case", "methods", "told"), [row[1:] for row in UNMET], ids=[row[0] for row in UNMET])
def test_what_is_missing_is_one_finding_with_what_mends_it(
    case: Case, methods: tuple[Method, ...], told: tuple[str, str, str]
) -> None:
    """For the methods that need it, and for no other."""
    for method in METHODS:
        found = beyond_never(obstacles(case, method))
        if method not in methods:
            assert found == ()
            continue
        code, message, hint = only(found)
        assert (code, told[1] in message, told[2] in hint) == (told[0], True, True), (message, hint)


def test_every_criterion_has_a_row_above() -> None:
    assert {criterion.code for criterion in CRITERIA} - {"two_run"} == {told[0] for _, _, _, told in UNMET}


MET = [
    ("another patch of the same QEMU", a_case(**target_with(qemu="7.2.9"))),
    ("a source that does not tell its QEMU", a_case(**source_with(qemu=""))),
    ("servers that do not tell their processors", a_case(target=replace(a_case().target, processor=None))),
    (
        "another model that can do more",
        a_case(
            source=replace(a_case().source, processor=Processor(model="a", flags=frozenset({"sse"}))),
            target=replace(a_case().target, processor=Processor(model="b", flags=frozenset({"avx", "sse"}))),
        ),
    ),
    (
        "a volume that both servers see",
        a_case(
            a_machine(devices={"data": DATA | {"pool": "remote"}}),
            target=replace(a_case().target, pools={"remote": Pool(name="remote", driver="ceph")}),
        ),
    ),
]


@pytest.mark.parametrize("case", [row[1] for row in MET], ids=[row[0] for row in MET])
def test_what_does_no_harm_is_no_obstacle(case: Case) -> None:
    assert best_method(case) == (Method.STATEFUL, f"not live: {NEVER_LIVE}")


def test_what_cannot_keep_its_memory_moves_cold_and_every_reason_is_told() -> None:
    """With what mends it: whoever reads the plan decides."""
    machine = a_machine(config={"migration.stateful": ""}, devices={"root": ROOT_DISK})
    method, why = best_method(a_case(machine))
    assert method is Method.COLD
    assert "not stateful: migration.stateful is not set (stop it and `lxc config set s1:vm1" in why
    assert "size.state of its root disk is not set" in why


def test_a_live_move_on_a_pool_that_all_servers_see_needs_no_room_for_the_memory() -> None:
    """LXD's guide says so; a stateful move writes the memory all the same."""
    ceph = {"default": Pool(name="default", driver="ceph")}
    case = a_case(a_machine(devices={"root": ROOT_DISK}), target=replace(a_case().target, pools=ceph))
    assert beyond_never(obstacles(case, Method.LIVE)) == ()
    assert only(obstacles(case, Method.STATEFUL))[0] == "size_state"


def test_hints_name_the_command_of_the_source() -> None:
    machine = a_machine(config={"migration.stateful": ""})
    case = a_case(machine, **source_with(product="incus"), **target_with(product="incus"))
    assert "`incus config set s1:vm1 migration.stateful=true`" in only(obstacles(case, Method.STATEFUL))[2]
