"""An instance's facts, as read from its config and devices."""

from common.domain.instance import GUARD_DEVICE, is_root_disk
from tests.builders import NIC, ROOT_DISK, an_instance


def test_its_status_answers_two_questions() -> None:
    """A frozen instance is neither running nor stopped."""
    assert an_instance(status="Running").is_running
    assert an_instance(status="Stopped").is_stopped
    frozen = an_instance(status="Frozen")
    assert not frozen.is_running
    assert not frozen.is_stopped


def test_only_our_own_device_is_a_guard() -> None:
    """A masked or foreign device under its name does not keep anything from starting."""
    assert an_instance(devices={GUARD_DEVICE: {"type": "unix-char"}}).is_guarded
    assert not an_instance(devices={GUARD_DEVICE: {"type": "none"}}).is_guarded
    assert not an_instance().is_guarded


def test_the_root_pool_is_that_of_the_device_at_the_root() -> None:
    """Other disks do not count; without a root disk there is none."""
    data = {"type": "disk", "path": "/data", "pool": "slow", "source": "v1"}
    assert an_instance(expanded_devices={"data": data, "root": ROOT_DISK}).root_pool == "default"
    assert an_instance(expanded_devices={"data": data}).root_pool == ""
    assert not is_root_disk({"type": "disk", "path": "/", "source": "/srv"})


def test_addresses_are_those_of_the_devices_and_the_volatile_ones() -> None:
    """A fixed address wins over a volatile one that was left behind."""
    instance = an_instance(
        config={"volatile.eth0.hwaddr": "00:16:3e:00:00:01", "volatile.eth1.hwaddr": "00:16:3e:00:00:02"},
        expanded_devices={"eth1": {**NIC, "hwaddr": "00:16:3e:00:00:99"}},
    )
    assert instance.addresses == {"eth0": "00:16:3e:00:00:01", "eth1": "00:16:3e:00:00:99"}


def test_the_identity_is_what_makes_a_copy_the_same_machine() -> None:
    """Nothing that describes the last run on the old server travels."""
    instance = an_instance(
        config={
            "volatile.eth0.hwaddr": "00:16:3e:00:00:01",
            "volatile.eth0.host_name": "veth123",
            "volatile.base_image": "abc",
            "volatile.cloud-init.instance-id": "i-1",
            "volatile.last_state.power": "RUNNING",
            "limits.cpu": "2",
        }
    )
    assert set(instance.identity) == {
        "volatile.uuid",
        "volatile.eth0.hwaddr",
        "volatile.base_image",
        "volatile.cloud-init.instance-id",
    }


def test_marks_and_volatile_keys_are_not_its_own_config() -> None:
    """A mark that was emptied is none."""
    instance = an_instance(config={"limits.cpu": "2", "user.herder.job": "p1-1", "user.herder.state": ""})
    assert instance.marks == {"job": "p1-1"}
    assert instance.own_config == {"limits.cpu": "2"}
    assert an_instance(devices={GUARD_DEVICE: {"type": "unix-char"}, "a": {"type": "none"}}).own_devices == {
        "a": {"type": "none"}
    }


def test_a_guard_in_a_profile_guards_as_well() -> None:
    """It shows up in the expanded devices only, and brings its state along in the expanded config."""
    guard = {GUARD_DEVICE: {"type": "unix-char"}}
    by_profile = an_instance(expanded_devices=guard, expanded_config={"user.herder.state": "guards"})
    handed_over = an_instance(expanded_devices=guard, expanded_config={"user.herder.state": "handed-over"})
    assert (by_profile.is_guarded, by_profile.is_handed_over) == (True, False)
    assert (handed_over.is_guarded, handed_over.is_handed_over) == (True, True)
    assert not an_instance(expanded_config={"user.herder.state": "handed-over"}).is_handed_over


def test_the_profile_of_its_job_is_not_one_of_its_own() -> None:
    """Only that of the job that it is marked with: another one called herder is its owner's."""
    marked = {"user.herder.job": "p1-1"}
    instance = an_instance(profiles=("default", "herder-p1-1", "herder-tools"), config=marked)
    assert instance.own_profiles == ("default", "herder-tools")
