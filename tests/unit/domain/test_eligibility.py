"""Eligibility: what stands in the way of a move, each finding by itself and all of them together."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.eligibility import (
    POOL_RESERVE,
    REQUIRED_EXTENSIONS,
    expanded_on_target,
    findings,
    inherits_root,
    wanted_devices,
    wanted_pool,
    wanted_profiles,
)
from common.domain.fleet import Member, Pool, Profile, Server
from common.domain.instance import COPY_OF, GUARD_DEVICE, Instance
from common.domain.plan import Finding, Method, Move, NameMap, Overrides, Policy, Retire
from tests.builders import (
    GIB,
    NIC,
    ROOT_DISK,
    VOLUME_DISK,
    a_member,
    a_move,
    a_move_within_cluster,
    a_retired_instance,
    a_server,
    a_server_info,
    a_volume,
    an_instance,
    an_order,
    volumes_by_key,
)

WITH_GENERATION = REQUIRED_EXTENSIONS | {"instance_generation_id"}
NO_DEVLXD = {("security.devlxd", "false"): "Unknown configuration key: security.devlxd"}
CLAIMED = {"user.herder.job": "p9-1"}
WITH_VOLUME = {"root": ROOT_DISK, "eth0": NIC, "data": {**VOLUME_DISK, "source": "v1"}}


def all_findings(
    instance: Instance | None = None,
    *,
    move: Move | None = None,
    source: Server | None = None,
    target: Server | None = None,
    own_job: str = "",
) -> tuple[Finding, ...]:
    """The findings about ``web1`` on its way from ``s1`` to ``s2``, with what a test is about replaced."""
    return findings(
        instance or an_instance(),
        move or a_move(),
        source or a_server("s1"),
        target or a_server("s2"),
        own_job=own_job,
    )


def moved_with(**overrides: Any) -> Move:
    """The move of ``web1`` with these overrides."""
    return a_move(overrides=Overrides(**overrides))


def moved_by(**policy: Any) -> Move:
    """The move of ``web1`` under this policy."""
    return a_move(policy=Policy(**policy))


def test_nothing_stands_in_the_way_of_a_plain_move() -> None:
    """The defaults of the builders are a move that is fine; so each test below shows what one change does."""
    assert all_findings() == ()


ONE_FINDING = [
    (
        "a target that does not trust us",
        {"target": a_server("s2", info=a_server_info("s2", trusted=False))},
        ("not_trusted", "s2 does not trust our certificate", "`herder remote add s2 ADDRESS`"),
    ),
    (
        "a source that does not trust us",
        {"source": a_server("s1", info=a_server_info("s1", trusted=False))},
        ("not_trusted", "s1 does not trust our certificate", "herder remote add s1"),
    ),
    (
        "an old target",
        {"target": a_server("s2", info=a_server_info("s2", extensions=frozenset({"instances"})))},
        ("extension", "s2 lacks the API extensions container_incremental_copy, projects", "upgrade it"),
    ),
    (
        "two remotes for one server",
        {"target": a_server("s2", info=a_server_info("s2", certificate="certificate of s1"))},
        ("same_server", "s1 and s2 are the same server", "choose another target"),
    ),
    (
        "an instance of another job",
        {"instance": an_instance(config=CLAIMED)},
        ("claimed", "it belongs to job p9-1", "`herder retry p9-1` or `herder cancel p9-1`"),
    ),
    (
        "a source that was moved away",
        {"instance": a_retired_instance(job="p9-1")},
        ("retired", "job p9-1 has moved it away", "`lxc config device remove s1:web1 herder-guard`"),
    ),
    (
        "a frozen instance",
        {"instance": an_instance(status="Frozen")},
        ("status", "its status is Frozen", "unfreeze, start or stop it first"),
    ),
    (
        "a virtual machine that shall move warm",
        {"instance": an_instance(type="virtual-machine")},
        ("virtual_machine", "does not move warm", "leave `--method` out"),
    ),
    (
        "a container that shall move live",
        {"move": a_move(method=Method.LIVE)},
        ("live", "it is a container: when a live move of one breaks, it hangs", "leave `--method` out"),
    ),
    (
        "a virtual machine, to a server without QEMU",
        {
            "instance": an_instance(type="virtual-machine"),
            "move": a_move(method=Method.COLD),
            "target": a_server("s2", info=a_server_info("s2", qemu="")),
        },
        ("no_qemu", "s2 cannot run virtual machines", "install QEMU on s2"),
    ),
    (
        "a running ephemeral instance",
        {"instance": an_instance(ephemeral=True)},
        ("ephemeral", "stopping it would delete the source", "make it non-ephemeral first"),
    ),
    (
        "a warm move without snapshots",
        {"move": moved_with(instance_only=True)},
        ("instance_only", "a warm move needs its snapshots", "`method: cold`"),
    ),
    (
        "a protected source that shall be deleted",
        {
            "instance": an_instance(config={"security.protection.delete": "true"}),
            "move": moved_by(retire=Retire.DELETE),
        },
        ("protected", "security.protection.delete keeps the source", "`retire: stop`"),
    ),
    (
        "a name that is taken on the target",
        {"target": a_server("s2", an_instance("web1"))},
        ("name_taken", "s2 has an instance web1 already", "rename or delete s2:web1"),
    ),
    (
        "a retired source under the name on the target",
        {"target": a_server("s2", a_retired_instance("web1", job="p9-1"))},
        ("name_taken", "s2:web1 is the retired source of job p9-1", "`lxc delete s2:web1` if it is not needed"),
    ),
    (
        "an architecture that the target cannot run",
        {"instance": an_instance(architecture="aarch64")},
        ("architecture", "s2 cannot run aarch64, only x86_64, i686", "another target"),
    ),
    (
        "a profile that the target lacks",
        {"instance": an_instance(profiles=("default", "ssd"))},
        ("profile", "s2 has no profile ssd", "`lxc profile copy s1:ssd s2:`"),
    ),
    (
        "a pool that the target lacks",
        {"move": moved_with(storage="fast")},
        ("pool", "s2 has no pool fast; it has default", "--storage"),
    ),
    (
        "a target without any pool",
        {"target": a_server("s2", pools={})},
        ("pool", "s2 has no pool default; it has none", "--storage"),
    ),
    (
        "a target that is neither LXD nor Incus",
        {"target": a_server("s2", info=a_server_info("s2", product="other"))},
        ("server_kind", "s2 is other; only servers of LXD and Incus are supported", "another server"),
    ),
    (
        "a target that does not know what every snapshot of the source has",
        {"source": a_server("s1", info=a_server_info("s1", extensions=WITH_GENERATION, product="incus"))},
        (
            "snapshots",
            "s2 (lxd 5.0.2) cannot take snapshots from s1 (incus 5.0.2)",
            "`herder move --method cold --instance-only`",
        ),
    ),
    (
        "a config key that the target has said no to",
        {
            "instance": an_instance(config={"security.devlxd": "false", "limits.cpu": "2"}),
            "target": a_server("s2", refused_config=NO_DEVLXD),
        },
        (
            "config",
            "s2 does not take its config security.devlxd=false: Unknown configuration key: security.devlxd",
            "`lxc config unset s1:web1 security.devlxd`",
        ),
    ),
    (
        "an override that the target has said no to",
        {
            "move": moved_with(config={"security.devlxd": "false"}),
            "target": a_server("s2", refused_config=NO_DEVLXD),
        },
        ("config", "s2 does not take its config security.devlxd=false", "set what s2 has instead after the move"),
    ),
    (
        "a full pool",
        {"target": a_server("s2", pools={"default": Pool(name="default", driver="dir", total=GIB, used=GIB)})},
        ("space", "pool default of s2 has only 0 MiB free", "free or add space in pool default of s2"),
    ),
    (
        "a network that the target lacks",
        {"instance": an_instance(devices={"eth1": {"type": "nic", "network": "dmz"}})},
        ("network", "device eth1 needs network dmz, which s2 does not have", "--device eth1,network=NAME"),
    ),
    (
        "a bridge of the host that the target lacks",
        {"instance": an_instance(devices={"eth1": {"type": "nic", "nictype": "bridged", "parent": "br7"}})},
        ("network", "device eth1 needs network br7", "--device eth1,network=NAME"),
    ),
    (
        "a directory of the source's host",
        {"instance": an_instance(devices={"data": {"type": "disk", "source": "/srv", "path": "/data"}})},
        ("host_path", "device data shares the path /srv", "--device data,type=none"),
    ),
    (
        "a custom volume of a profile that the target lacks",
        {"target": a_server("s2", profiles={"default": {"default": Profile(name="default", devices=WITH_VOLUME)}})},
        ("volume", "device data needs the custom volume default/v1", "attach it to the instance itself"),
    ),
    (
        "a device of the source's hardware",
        {"instance": an_instance(devices={"card": {"type": "gpu"}})},
        ("device", "device card (gpu) is bound to the source's hardware", "--device card,type=none"),
    ),
]


@pytest.mark.parametrize(
    ("world", "expected"), [case[1:] for case in ONE_FINDING], ids=[case[0] for case in ONE_FINDING]
)
def test_one_obstacle_is_one_finding(world: dict[str, Any], expected: tuple[str, str, str]) -> None:
    """It is a refusal with a code, a message that names what is in the way, and a hint that says what to do."""
    code, message, hint = expected
    (finding,) = all_findings(**world)
    assert finding.code == code
    assert message in finding.message
    assert hint in finding.hint
    assert finding.is_refusal


def test_a_project_that_the_target_lacks_is_found() -> None:
    """The hint is the command that creates it."""
    found = all_findings(move=a_move(target_project="shop"))
    first = found[0]
    assert (first.code, first.message) == ("project", "s2 has no project shop")
    assert first.hint == "`lxc project create s2:shop`, or --create project"


FINE = [
    (
        "a retired source that a person has brought back to life",
        {"instance": a_retired_instance(devices={}, status="Running")},
    ),
    ("a stopped instance", {"instance": an_instance(status="Stopped")}),
    ("a stopped ephemeral instance", {"instance": an_instance(status="Stopped", ephemeral=True)}),
    (
        "a cold move of the instance alone",
        {"move": a_move(method=Method.COLD, overrides=Overrides(instance_only=True))},
    ),
    (
        "a protected source that is kept",
        {"instance": an_instance(config={"security.protection.delete": "true"})},
    ),
    (
        "an instance of the same name in another project of the target",
        {"target": a_server("s2", an_instance("web1", project="shop"))},
    ),
    (
        "a pool whose server does not tell its size",
        {"target": a_server("s2", pools={"default": Pool(name="default", driver="ceph")})},
    ),
    (
        "a pool with just the reserve left",
        {
            "target": a_server(
                "s2", pools={"default": Pool(name="default", driver="dir", total=GIB, used=GIB - POOL_RESERVE)}
            )
        },
    ),
    (
        "a masked device of the source's hardware",
        {
            "instance": an_instance(devices={"card": {"type": "gpu"}}),
            "move": moved_with(devices={"card": {"type": "none"}}),
        },
    ),
    (
        "a NIC that is given another network",
        {
            "instance": an_instance(devices={"eth1": {"type": "nic", "network": "dmz"}}),
            "move": moved_with(devices={"eth1": {"network": "lxdbr0"}}),
        },
    ),
    (
        "a custom volume of a profile that the target has",
        {
            "target": a_server(
                "s2",
                profiles={"default": {"default": Profile(name="default", devices=WITH_VOLUME)}},
                volumes=volumes_by_key(a_volume("v1")),
            )
        },
    ),
    ("a proxy device", {"instance": an_instance(devices={"web": {"type": "proxy", "listen": "tcp:0.0.0.0:80"}})}),
    (
        "a missing profile that is left out",
        {"instance": an_instance(profiles=("default", "ssd")), "move": moved_with(profiles=("default",))},
    ),
]


@pytest.mark.parametrize("world", [case[1] for case in FINE], ids=[case[0] for case in FINE])
def test_no_obstacle_is_no_finding(world: dict[str, Any]) -> None:
    """What looks like an obstacle and is none must not keep an instance from moving."""
    assert all_findings(**world) == ()


def test_everything_is_found_at_once() -> None:
    """Nobody shall mend one thing only to learn of the next."""
    instance = an_instance(
        status="Frozen",
        architecture="aarch64",
        profiles=("default", "ssd"),
        devices={"card": {"type": "gpu"}, "eth1": {"type": "nic", "network": "dmz"}},
    )
    target = a_server(
        "s2", an_instance("web1"), info=a_server_info("s2", extensions=REQUIRED_EXTENSIONS - {"projects"})
    )
    found = all_findings(instance, target=target, move=moved_with(storage="fast"))
    codes = {"extension", "status", "name_taken", "architecture", "profile", "pool", "device", "network"}
    assert {finding.code for finding in found} == codes
    assert len(found) == len(codes)


def test_a_job_does_not_stand_in_its_own_way() -> None:
    """Preflight runs again after a crash: the source is marked by then, and the copy may be on the target."""
    ours = an_instance(config={"user.herder.job": "p1-1"})
    target = a_server("s2", an_instance("web1", config={"user.herder.job": "p1-1"}))
    assert all_findings(ours, target=target, own_job="p1-1") == ()
    codes = {finding.code for finding in all_findings(ours, target=target, own_job="p2-1")}
    assert codes == {"claimed", "name_taken"}


def test_the_pool_is_the_option_then_the_overridden_root_then_that_of_the_source() -> None:
    """As `lxc move --storage` and `--device root,pool=` have it."""
    root = {"root": {"type": "disk", "path": "/", "pool": "other"}}
    assert wanted_pool(an_instance(), a_move()) == "default"
    assert wanted_pool(an_instance(), moved_with(devices=root)) == "other"
    assert wanted_pool(an_instance(), moved_with(devices=root, storage="fast")) == "fast"


def test_profiles_are_those_of_the_source_unless_others_are_named() -> None:
    """No profile at all can be asked for too."""
    assert wanted_profiles(an_instance(profiles=("a", "b")), a_move()) == ("a", "b")
    assert wanted_profiles(an_instance(), moved_with(profiles=("c",))) == ("c",)
    assert wanted_profiles(an_instance(), moved_with(profiles=())) == ()


def test_the_copy_always_has_a_root_disk_of_its_own() -> None:
    """Without one a server silently takes the pool of a profile."""
    assert wanted_devices(an_instance(), moved_with(storage="fast"))["root"] == {**ROOT_DISK, "pool": "fast"}


def test_a_root_disk_keeps_its_name_and_its_size() -> None:
    """Also if it is a local device of another name."""
    disk = {"type": "disk", "path": "/", "pool": "default", "size": "20GiB"}
    instance = an_instance(devices={"rootfs": disk}, expanded_devices={"rootfs": disk})
    assert wanted_devices(instance, moved_with(storage="fast")) == {"rootfs": {**disk, "pool": "fast"}}


def test_an_override_changes_single_keys_of_a_device_of_a_profile() -> None:
    """The rest of the device is that of the profile, which becomes local on the copy."""
    devices = wanted_devices(an_instance(), moved_with(devices={"eth0": {"network": "br1"}}))
    assert devices["eth0"] == {**NIC, "network": "br1"}


def test_a_mask_is_nothing_but_its_type() -> None:
    """LXD refuses every other key in a device of type none."""
    assert wanted_devices(an_instance(), moved_with(devices={"eth0": {"type": "none"}}))["eth0"] == {"type": "none"}


def test_what_has_another_name_on_the_target_is_mapped() -> None:
    """Profiles, pools, and the networks and pools that its own devices refer to; an override comes first."""
    data = {"type": "disk", "path": "/srv", "pool": "default", "source": "data"}
    link = {"type": "nic", "nictype": "bridged", "parent": "br0", "name": "br0"}
    own = {"data": data, "eth0": {**NIC, "network": "lan"}, "eth1": link}
    instance = an_instance(profiles=("default", "web"), devices=own, expanded_devices={"root": ROOT_DISK, **own})
    names = NameMap(profiles={"web": "www"}, networks={"lan": "dmz", "br0": "br9"}, pools={"default": "ssd"})
    move = moved_with(map=names)
    assert wanted_profiles(instance, move) == ("default", "www")
    assert wanted_pool(instance, move) == "ssd"
    assert wanted_devices(instance, move) == {
        "root": {**ROOT_DISK, "pool": "ssd"},
        "data": {**data, "pool": "ssd"},
        "eth0": {**NIC, "network": "dmz"},
        "eth1": {**link, "parent": "br9"},
    }
    chosen = moved_with(map=names, profiles=("a",), storage="slow", devices={"eth0": {"network": "other"}})
    assert wanted_profiles(instance, chosen) == ("a",)
    assert wanted_pool(instance, chosen) == "slow"
    assert wanted_devices(instance, chosen)["eth0"] == {**NIC, "network": "other"}


def test_the_guard_is_not_copied_from_the_source() -> None:
    """It is ours: the copy gets its own."""
    guarded = an_instance(devices={GUARD_DEVICE: {"type": "unix-char", "source": "/dev/herder-guard"}})
    assert GUARD_DEVICE not in wanted_devices(guarded, a_move())


def test_devices_of_the_targets_profiles_count() -> None:
    """A profile of the same name may have another network there."""
    profiles = {"default": Profile(name="default", devices={"eth9": {"type": "nic", "network": "dmz"}})}
    assert "eth9" in expanded_on_target(an_instance(), a_move(), profiles)
    target = a_server("s2", profiles={"default": profiles})
    assert [finding.code for finding in all_findings(target=target)] == ["network"]


def test_a_root_disk_is_inherited_if_the_targets_profile_has_it_in_the_wanted_pool() -> None:
    """Then the copy's devices are those of the source: a later change of the profile counts for it as before."""
    profiles = {"default": Profile(name="default", devices={"root": ROOT_DISK})}
    elsewhere = {"default": Profile(name="default", devices={"root": {**ROOT_DISK, "pool": "slow"}})}
    assert inherits_root(an_instance(), a_move(), profiles)
    assert not inherits_root(an_instance(), a_move(), elsewhere)
    assert not inherits_root(an_instance(), a_move(), {})
    assert not inherits_root(an_instance(), moved_with(storage="fast"), profiles)
    assert not inherits_root(an_instance(devices={"root": ROOT_DISK}), a_move(), profiles)
    assert wanted_devices(an_instance(), a_move(), root_from_profile=True) == {}


def test_a_root_disk_that_an_override_changes_is_not_inherited() -> None:
    """`--device root,size=10GiB` makes it a local device, and that must name the wanted pool."""
    fast = {"default": Profile(name="default", devices={"root": {**ROOT_DISK, "pool": "fast"}})}
    move = moved_with(storage="fast", devices={"root": {"size": "10GiB"}})
    devices = wanted_devices(an_instance(), move, root_from_profile=inherits_root(an_instance(), move, fast))
    assert devices["root"] == {**ROOT_DISK, "pool": "fast", "size": "10GiB"}


def test_servers_of_both_products_take_instances_and_snapshots_that_they_know() -> None:
    incus = a_server("s2", info=a_server_info("s2", product="incus", extensions=WITH_GENERATION))
    assert all_findings(target=incus) == ()
    assert all_findings(source=a_server("s1", info=a_server_info("s1", extensions=WITH_GENERATION)), target=incus) == ()


def test_without_its_snapshots_an_instance_can_go_where_they_are_not_known() -> None:
    source = a_server("s1", info=a_server_info("s1", extensions=WITH_GENERATION, product="incus"))
    move = a_move(method=Method.COLD, overrides=Overrides(instance_only=True))
    assert all_findings(source=source, move=move) == ()


def copied(**overrides: Any) -> Move:
    """The copy of ``web1`` with these overrides."""
    return a_move(method=Method.COPY, overrides=Overrides(**overrides))


def on_dir() -> Server:
    """A source whose pool is a dir one."""
    return a_server("s1", pools={"default": Pool(name="default", driver="dir", total=GIB, used=0)})


@pytest.mark.parametrize(
    ("status", "overrides", "codes"),
    [("Running", {}, ["freezes"]), ("Running", {"allow_inconsistent": True}, []), ("Stopped", {}, [])],
)
def test_who_copies_from_a_dir_pool_is_told_that_lxd_freezes_the_source(
    status: str, overrides: dict[str, Any], codes: list[str]
) -> None:
    """Only if it runs and may not go on; a move makes up for it, a copy does not. It is no refusal."""
    instance = an_instance(status=status)
    found = all_findings(instance, move=copied(**overrides), source=on_dir())
    assert [(finding.code, finding.is_refusal) for finding in found] == [(code, False) for code in codes]
    assert all_findings(instance, source=on_dir()) == ()


def test_a_fixed_address_would_be_there_twice() -> None:
    """It is a warning, as it may be meant; another address for the copy settles it."""
    fixed = an_instance(devices={"eth0": {**NIC, "hwaddr": "00:16:3e:00:00:01"}})
    assert [finding.code for finding in all_findings(fixed, move=copied())] == ["same_address"]
    other = copied(devices={"eth0": {"hwaddr": "00:16:3e:00:00:02"}})
    assert all_findings(fixed, move=other) == ()


def test_what_a_move_would_cost_its_source_does_not_keep_it_from_being_copied() -> None:
    """Nothing stops or deletes it."""
    ephemeral = an_instance(ephemeral=True)
    assert [finding.code for finding in all_findings(ephemeral)] == ["ephemeral"]
    assert all_findings(ephemeral, move=copied()) == ()


def refresh_findings(*, own_job: str = "", **changes: Any) -> list[str]:
    """The codes of what stands in the way of a refresh of ``web1`` on ``s2``, which differs as told."""
    config = {COPY_OF: "uuid-of-web1", **changes.pop("config", {})}
    there = an_instance(**({"status": "Stopped", "config": config} | changes))
    move = a_move(method=Method.REFRESH)
    return [each.code for each in all_findings(move=move, target=a_server("s2", there), own_job=own_job)]


def test_a_stopped_copy_of_the_source_is_refreshed_and_nothing_else() -> None:
    """A copy that lxc made does not tell whose it is; one that runs would be overwritten while it runs."""
    assert refresh_findings() == []
    assert refresh_findings(status="Running") == ["copy_runs"]
    assert refresh_findings(config={COPY_OF: ""}) == ["not_a_copy"]
    assert refresh_findings(config={COPY_OF: "uuid-of-web2"}) == ["not_a_copy"]
    assert refresh_findings(config=CLAIMED) == ["claimed"]
    assert refresh_findings(config=CLAIMED, own_job="p9-1", status="Frozen") == []
    gone = all_findings(move=a_move(method=Method.REFRESH))
    assert [each.code for each in gone] == ["no_copy"]


def test_who_knows_better_is_told_how_to_say_that_it_is_a_copy() -> None:
    move = a_move(method=Method.REFRESH)
    (found,) = all_findings(move=move, target=a_server("s2", an_instance(status="Stopped")))
    assert f"`lxc config set s2:web1 {COPY_OF}=uuid-of-web1`" in found.hint


def within_cluster(target: Server, **changes: Any) -> list[str]:
    """The codes of the findings about ``web1`` on its way from the member ``c2`` to ``c3`` of a cluster."""
    there = an_instance(**({"location": "c2"} | changes))
    return [each.code for each in findings(there, a_move_within_cluster(), a_member("c2"), target)]


def test_an_instance_changes_its_member_under_its_own_name() -> None:
    """One server, one certificate, and the name is there already: it is the instance's own."""
    assert within_cluster(replace(a_member(), instances=(an_instance(location="c2"),))) == []


@pytest.mark.parametrize("status", ["Offline", "Evacuated", "Blocked"])
def test_only_a_member_that_is_online_takes_instances(status: str) -> None:
    """LXD itself puts a copy onto an evacuated one."""
    members = {"c3": Member(name="c3", address="", status=status)}
    assert within_cluster(a_member(members=members)) == ["member"]


def test_a_member_must_be_there_and_another_one() -> None:
    """A server that is no cluster has none."""
    assert within_cluster(a_member(members={})) == ["member"]
    assert within_cluster(a_member(), location="c3") == ["member"]


def test_what_all_members_share_or_only_one_has_is_not_copied() -> None:
    """A shared pool needs no copy, a custom volume gets none."""
    volume = {"type": "disk", "pool": "default", "source": "data", "path": "/data"}
    assert within_cluster(a_member(driver="ceph")) == ["shared_pool"]
    known = a_member(volumes=frozenset({("default", "default", "data")}))
    assert within_cluster(known, devices={"data": volume}) == ["volume"]


def test_members_of_a_cluster_of_incus_take_instances() -> None:
    assert within_cluster(a_member(info=a_server_info("s1", clustered=True, product="incus"))) == []


def into_cluster(target: Server | None = None, *, move: Move | None = None, **changes: Any) -> list[str]:
    """The codes of the findings about ``web1`` on its way from a server that stands alone to the member ``c3``."""
    there = move or a_move(source="s9", target="s1", target_member="c3")
    return [each.code for each in findings(an_instance(**changes), there, a_server("s9"), target or a_member())]


def out_of_cluster(source: Server | None = None, **changes: Any) -> list[str]:
    """The same of its way from the member ``c2`` of ``s1`` to a server that stands alone."""
    there, move = an_instance(**({"location": "c2"} | changes)), a_move(source_member="c2")
    return [each.code for each in findings(there, move, source or a_member("c2"), a_server("s2"))]


def test_an_instance_goes_into_a_cluster_and_out_of_one() -> None:
    assert into_cluster() == out_of_cluster() == []


def test_a_name_exists_once_in_the_cluster_that_it_comes_to() -> None:
    """On whatever member it is."""
    assert into_cluster(replace(a_member(), instances=(an_instance(location="c2"),))) == ["name_taken"]


@pytest.mark.parametrize("status", ["Offline", "Evacuated", "Blocked"])
def test_it_comes_to_a_member_that_is_online(status: str) -> None:
    members = {"c3": Member(name="c3", address="", status=status)}
    assert into_cluster(a_member(members=members)) == ["member"]
    assert into_cluster(a_member(members={})) == ["member"]


def test_what_is_on_a_member_that_is_down_cannot_leave() -> None:
    """Its status is Error then, and nothing else is known of it. One in maintenance gives away what is on it."""
    down = {"c2": Member(name="c2", address="", status="Offline", message="no heartbeat")}
    assert out_of_cluster(a_member("c2", members=down), status="Error", expanded_devices={}) == ["member"]
    in_maintenance = {"c2": Member(name="c2", address="", status="Evacuated")}
    assert out_of_cluster(a_member("c2", members=in_maintenance)) == []


def test_its_volumes_keep_it_out_of_a_cluster() -> None:
    """Members may have volumes of the same name; one that is told to be there is taken for granted."""
    devices = {"data": VOLUME_DISK}
    assert "volume" in into_cluster(devices=devices)
    assert "volume" in out_of_cluster(devices=devices)


def test_what_a_cluster_lacks_is_made_on_each_member_by_hand() -> None:
    (found,) = findings(
        an_instance(), a_move(source="s9", target="s1", target_member="c3"), a_server("s9"), a_member(pools={})
    )
    assert found.hint == "choose one with --storage, or `lxc storage create` it on all members of s1"


@pytest.mark.parametrize(("method", "what"), [(Method.IMPORT, "imports into"), (Method.VOLUME_COPY, "volumes that go")])
def test_what_has_not_been_tried_with_clusters_is_refused(method: Method, what: str) -> None:
    move = a_move(source="s9", target="s1", target_member="c3", method=method)
    found = [each.message for each in findings(an_instance(), move, a_server("s9"), a_member())]
    assert [message for message in found if message.startswith(f"s1 is a cluster, and {what}")]


def test_a_copy_is_refreshed_on_the_member_that_has_it() -> None:
    """Its server refuses to refresh it on another one."""
    copy = an_instance(status="Stopped", location="c2", config={COPY_OF: "uuid-of-web1", "volatile.uuid": "its own"})
    move = a_move(source="s9", target="s1", target_member="c3", method=Method.REFRESH)
    assert into_cluster(replace(a_member(), instances=(copy,)), move=move) == ["member"]
    here = replace(a_member(), instances=(replace(copy, location="c3"),))
    assert into_cluster(here, move=move) == []


def test_a_cluster_is_backed_up_but_gets_no_backups() -> None:
    """What is backed up is only read."""
    order = an_order()
    onto = a_move(source="s9", target="s1", target_member="c3", method=Method.BACKUP, backup=order)
    found = findings(an_instance(), onto, a_server("s9"), a_member())
    assert "s1 is a cluster, and backups onto a cluster have not been tried" in [each.message for each in found]
    of_one = a_move(source_member="c2", method=Method.BACKUP, backup=order)
    assert findings(an_instance(location="c2"), of_one, a_member("c2"), a_server("s2")) == ()


@pytest.mark.parametrize(
    ("method", "codes"),
    [(Method.COLD, []), (Method.STATEFUL, ["virtual_machine"]), (Method.LIVE, ["virtual_machine"])],
)
def test_a_virtual_machine_changes_its_member_without_its_memory(method: Method, codes: list[str]) -> None:
    machine = an_instance(type="virtual-machine", location="c2")
    found = findings(machine, a_move_within_cluster(method=method), a_member("c2"), a_member())
    assert [each.code for each in found] == codes
