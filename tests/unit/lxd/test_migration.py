"""The two requests that make a copy."""

from dataclasses import replace

from common.domain.instance import Instance
from common.domain.volume import Volume
from common.lxd.migration import (
    Offer,
    Transfer,
    offer_body,
    push_body,
    receive_body,
    volume_push_body,
    volume_receive_body,
)

C1 = Instance(
    name="c1",
    type="virtual-machine",
    architecture="aarch64",
    description="web",
    ephemeral=True,
    stateful=True,
    profiles=("default", "web"),
    config={"volatile.base_image": "1c4bef", "boot.autostart": "true"},
    devices={"root": {"type": "disk", "path": "/", "pool": "fast"}},
)
TRANSFER = Transfer(
    address="https://10.0.0.1:8443",
    certificate="PEM",
    offer=Offer(operation="db2b", secrets={"control": "21", "fs": "a1"}),
)


def test_an_offer_says_that_it_is_not_live() -> None:
    """LXD takes an offer without the key for a live one."""
    assert offer_body("c1", instance_only=True, allow_inconsistent=True) == {
        "name": "c1",
        "migration": True,
        "live": False,
        "instance_only": True,
        "allow_inconsistent": True,
    }


def test_the_copy_gets_what_was_decided_and_keeps_what_it_is() -> None:
    body = receive_body(
        C1,
        name="c9",
        config={"boot.autostart": "false"},
        devices={"root": {"type": "disk", "path": "/", "pool": "slow"}},
        profiles=["default"],
        source=replace(TRANSFER, refresh=True, instance_only=True, allow_inconsistent=True),
    )
    assert body == {
        "name": "c9",
        "type": "virtual-machine",
        "architecture": "aarch64",
        "description": "web",
        "ephemeral": True,
        "stateful": True,
        "profiles": ["default"],
        "config": {"boot.autostart": "false"},
        "devices": {"root": {"type": "disk", "path": "/", "pool": "slow"}},
        "source": {
            "type": "migration",
            "mode": "pull",
            "operation": "https://10.0.0.1:8443/1.0/operations/db2b",
            "certificate": "PEM",
            "secrets": {"control": "21", "fs": "a1"},
            "base-image": "1c4bef",
            "live": False,
            "refresh": True,
            "instance_only": True,
            "allow_inconsistent": True,
        },
    }


def test_only_a_virtual_machine_brings_its_memory() -> None:
    """Its first start would otherwise look for what is not there."""
    container = replace(C1, type="container")
    body = receive_body(container, name="c1", config={}, devices={}, profiles=[], source=TRANSFER)
    assert body["stateful"] is False


def test_a_target_without_an_offer_waits_for_a_push() -> None:
    body = receive_body(C1, name="c1", config={}, devices={}, profiles=[], source=Transfer(refresh=True))
    assert body["source"] == {
        "type": "migration",
        "mode": "push",
        "base-image": "1c4bef",
        "live": False,
        "refresh": True,
        "instance_only": False,
        "allow_inconsistent": False,
    }


def test_a_push_is_an_offer_that_names_its_target() -> None:
    assert push_body("c1", replace(TRANSFER, instance_only=True)) == {
        **offer_body("c1", instance_only=True, allow_inconsistent=False),
        "target": {
            "operation": "https://10.0.0.1:8443/1.0/operations/db2b",
            "certificate": "PEM",
            "secrets": {"control": "21", "fs": "a1"},
        },
    }


DATA = Volume(pool="fast", name="data", description="all of it", config={"user.a": "1"})


def test_a_volume_is_received_under_its_own_name_with_the_config_that_was_decided() -> None:
    """``volume_only`` leaves its snapshots behind."""
    body = volume_receive_body(DATA, config={"user.b": "2"}, source=replace(TRANSFER, instance_only=True))
    assert (body["name"], body["config"], body["description"]) == ("data", {"user.b": "2"}, "all of it")
    source = body["source"]
    assert (source["mode"], source["pool"], source["name"]) == ("pull", "fast", "data")
    assert source["volume_only"] is True
    assert source["secrets"] == {"control": "21", "fs": "a1"}


def test_a_volume_that_is_pushed_names_its_target() -> None:
    """And an offer names none; a target without an offer waits."""
    offer = {"name": "data", "pool": "fast", "migration": True, "volume_only": False}
    pushed = volume_push_body("fast", "data", replace(TRANSFER, instance_only=False))
    assert {**pushed, "target": None} == {**offer, "target": None}
    assert pushed["target"]["operation"] == "https://10.0.0.1:8443/1.0/operations/db2b"
    assert volume_receive_body(DATA, config={}, source=Transfer())["source"]["mode"] == "push"


def test_secrets_do_not_show_in_a_log() -> None:
    assert "a1" not in repr(Offer(operation="db2b", secrets={"fs": "a1"}))
