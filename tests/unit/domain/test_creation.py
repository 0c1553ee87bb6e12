"""What is made on a target before an instance comes."""

from dataclasses import replace
from typing import Any

from common.domain.creation import creations, with_created
from common.domain.eligibility import findings
from common.domain.fleet import Definition, Pool, Profile, Server
from common.domain.plan import Creation, Move, NameMap, Overrides, Thing
from tests.builders import NIC, ROOT_DISK, a_move, a_server, an_instance

ALL = tuple(Thing)
LOOP = "/var/lib/lxd/disks/default.img"
BRIDGE = Definition(driver="bridge", description="ours", config={"ipv4.address": "10.0.0.1/24", "volatile.x": "1"})
BTRFS = Definition(driver="btrfs", config={"source": LOOP, "size": "5GiB", "volatile.initial_source": LOOP})
INSTANCE = an_instance(profiles=("default", "web"))


def asking(*things: Thing, **names: Any) -> Move:
    """A move from s1 to s2 that asks for these."""
    return replace(a_move(), overrides=Overrides(create=things, map=NameMap(**names)))


def source(**definitions: Definition) -> Server:
    """s1 with a profile ``web`` besides, and these pools and networks."""
    web = Profile(name="web", description="shop", config={"limits.cpu": "1"}, devices={"eth1": {**NIC, "name": "eth1"}})
    default = Profile(name="default", devices={"root": ROOT_DISK, "eth0": NIC})
    known = {"network": BRIDGE, "pool": BTRFS, **definitions}
    return a_server(
        "s1",
        profiles={"default": {"default": default, "web": web}},
        definitions={
            ("network", "default", "lxdbr0"): known["network"],
            ("pool", "", "default"): known["pool"],
        },
    )


def bare() -> Server:
    """s2, with nothing."""
    return a_server("s2", profiles={"default": {}}, networks={"default": frozenset()}, pools={})


def test_nothing_is_made_that_was_not_asked_for() -> None:
    """And of what was asked for only what is not there."""
    assert creations(INSTANCE, asking(), source(), bare()) == ()
    assert [each.name for each in creations(INSTANCE, asking(Thing.POOL), source(), bare())] == ["default"]
    assert [each.name for each in creations(INSTANCE, asking(*ALL), source(), a_server("s2"))] == ["web"]


def test_a_target_that_has_nothing_gets_all_that_the_instance_needs() -> None:
    """In the order in which one needs the other, without what belongs to the source's host; then nothing is refused."""
    move = asking(*ALL)
    made = creations(INSTANCE, move, source(), bare())
    assert [(each.thing, each.name) for each in made] == [
        (Thing.POOL, "default"),
        (Thing.NETWORK, "lxdbr0"),
        (Thing.PROFILE, "default"),
        (Thing.PROFILE, "web"),
    ]
    assert made[0] == Creation(thing=Thing.POOL, name="default", driver="btrfs", config={"size": "5GiB"})
    assert made[1].config == {"ipv4.address": "10.0.0.1/24"}
    assert (made[3].description, made[3].config) == ("shop", {"limits.cpu": "1"})
    there = with_created(bare(), made, "default")
    assert [found for found in findings(INSTANCE, move, source(), there) if found.is_refusal] == []


def test_what_is_mapped_is_made_under_its_new_name() -> None:
    """Also where a profile that is made refers to it."""
    move = asking(*ALL, networks={"lxdbr0": "dmz"}, profiles={"web": "www"}, pools={"default": "ssd"})
    made = {(each.thing, each.name): each for each in creations(INSTANCE, move, source(), bare())}
    assert made.keys() == {
        (Thing.POOL, "ssd"),
        (Thing.NETWORK, "dmz"),
        (Thing.PROFILE, "default"),
        (Thing.PROFILE, "www"),
    }
    assert made[Thing.PROFILE, "www"].devices["eth1"]["network"] == "dmz"
    assert made[Thing.PROFILE, "default"].devices["root"]["pool"] == "ssd"


SHOP = Definition(driver="", description="theirs", config={"features.profiles": "true", "user.owner": "ann"})


def of_shop(project: Definition, *things: Thing) -> tuple[Move, Server]:
    """A move of an instance of project ``shop``, which s2 lacks, and its source."""
    here = source()
    profiles = {"shop": here.profiles["default"]}
    definitions = {**here.definitions, ("project", "", "shop"): project, ("network", "shop", "lxdbr0"): BRIDGE}
    move = replace(asking(*things), project="shop", target_project="shop")
    return move, replace(here, projects=("default", "shop"), profiles=profiles, definitions=definitions)


def test_a_project_comes_first_and_its_default_profile_is_made_as_well() -> None:
    """The server makes an empty one; without it as it was the instance would have no disk."""
    move, here = of_shop(SHOP, *ALL)
    made = creations(INSTANCE, move, here, a_server("s2"))
    assert [(each.thing, each.name) for each in made] == [
        (Thing.PROJECT, "shop"),
        (Thing.PROFILE, "default"),
        (Thing.PROFILE, "web"),
    ]
    assert (made[0].description, made[0].config) == ("theirs", SHOP.config)
    there = with_created(a_server("s2"), made, "shop")
    assert [found for found in findings(INSTANCE, move, here, there) if found.is_refusal] == []


def test_a_project_without_profiles_of_its_own_has_those_of_the_default_one() -> None:
    move, here = of_shop(replace(SHOP, config={"features.profiles": "false"}), *ALL)
    made = creations(INSTANCE, move, here, a_server("s2"))
    assert [(each.thing, each.name) for each in made] == [(Thing.PROJECT, "shop"), (Thing.PROFILE, "web")]


def test_a_project_that_was_not_asked_for_is_not_made_and_nothing_in_it() -> None:
    """Nor one that its source does not tell of, as it does not to those who may not see it."""
    move, here = of_shop(SHOP, Thing.PROFILE, Thing.NETWORK, Thing.POOL)
    assert creations(INSTANCE, move, here, a_server("s2")) == ()
    move, here = of_shop(SHOP, *ALL)
    assert creations(INSTANCE, move, replace(here, definitions={}), a_server("s2")) == ()


def test_a_project_like_the_default_one_uses_the_bridges_of_that() -> None:
    """With networks of its own it could have only those of OVN."""
    whole = Definition(driver="", config={"features.networks": "true", "features.images": "true"})
    move = replace(asking(Thing.PROJECT), target_project="new")
    here = source()
    here = replace(here, definitions={**here.definitions, ("project", "", "default"): whole})
    (made,) = creations(INSTANCE, move, here, a_server("s2"))
    assert made.config == {"features.images": "true"}


def test_what_hangs_on_the_host_is_not_made() -> None:
    """A pool on a disk, or of a driver that is not local, and a network that is not a bridge: they stay refused."""
    disk = Definition(driver="btrfs", config={"source": "/dev/sdb"})
    ceph = Definition(driver="ceph", config={"source": "rbd.img"})
    ovn = Definition(driver="ovn")
    for pool in (disk, ceph):
        assert creations(INSTANCE, asking(Thing.POOL), source(pool=pool), bare()) == ()
    there = replace(bare(), profiles=source().profiles)
    assert creations(INSTANCE, asking(Thing.NETWORK), source(network=ovn), there) == ()


def test_a_pool_of_directories_needs_no_disk() -> None:
    """Its source is where the other server keeps its own."""
    directory = Definition(driver="dir", config={"source": "/var/lib/lxd/storage-pools/default"})
    (made,) = creations(INSTANCE, asking(Thing.POOL), source(pool=directory), bare())
    assert made == Creation(thing=Thing.POOL, name="default", driver="dir")
    assert with_created(bare(), (made,), "default").pools == {"default": Pool(name="default", driver="dir")}
