"""What the lab does to the machine that it installs programs on. Needs neither root nor LXD."""

import os
from pathlib import Path

import pytest

from tests.lab import LabError, LabUnavailableError, packages


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where apt would ask whether it may start a service."""
    place = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "POLICY", place)
    return place


def test_services_may_not_start_while_packages_are_installed(policy: Path) -> None:
    with packages.no_service_starts():
        assert os.access(policy, os.X_OK)
        assert "exit 101" in policy.read_text()
    assert not policy.exists()


def test_a_policy_that_was_there_comes_back_even_if_apt_fails(policy: Path) -> None:
    policy.write_text("the administrator's own")
    with pytest.raises(LabError), packages.no_service_starts():
        raise LabError("apt-get failed")
    assert policy.read_text() == "the administrator's own"
    assert list(policy.parent.iterdir()) == [policy]


def test_a_policy_that_a_crash_left_aside_is_not_lost(policy: Path) -> None:
    """The first run was killed between the two renames: what lies in the place is the lab's own."""
    policy.write_text("the administrator's own")
    crashed = packages.no_service_starts()
    crashed.__enter__()
    with packages.no_service_starts():
        pass
    assert policy.read_text() == "the administrator's own"


def test_root_gets_a_range_of_ids_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present, absent = tmp_path / "subuid", tmp_path / "subgid"
    present.write_text("somebody:100000:65536\nroot:200000:65536\n")
    monkeypatch.setattr(packages, "ID_FILES", (present, absent))
    packages.give_root_ids()
    packages.give_root_ids()
    assert present.read_text() == "somebody:100000:65536\nroot:200000:65536\n"
    assert absent.read_text() == f"{packages.ID_RANGE}\n"


def test_without_root_there_is_no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabUnavailableError, match="needs root"):
        packages.ensure()


def test_without_apt_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lab.host.PATH", "/nowhere")
    with pytest.raises(LabUnavailableError, match="lxd"):
        packages.install(packages.missing())


def test_what_virtual_machines_need_is_asked_for_only_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is looked for by its path, a program by its name."""
    monkeypatch.setattr("tests.lab.host.PATH", "/nowhere")
    assert "qemu-system-x86" not in packages.missing()
    assert packages.missing({"qemu-img": "qemu-utils", "/etc/passwd": "base", "/no/such": "ovmf"}) == [
        "qemu-utils",
        "ovmf",
    ]


def test_static_and_dynamic_programs_are_told_apart(tmp_path: Path) -> None:
    dynamic = tmp_path / "dynamic"
    dynamic.write_bytes(b"\x7fELF" + bytes(700) + b"/lib64/ld-linux-x86-64.so.2\0")
    static = tmp_path / "static"
    static.write_bytes(b"\x7fELF" + bytes(9000))
    assert not packages.is_static(dynamic)
    assert packages.is_static(static)


def test_incus_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lab.host.PATH", "/nowhere")
    (tmp_path / "programs").mkdir()
    packages.unpack_other(packages.INCUS, tmp_path / "programs")
    assert list((tmp_path / "programs").iterdir()) == []


def test_without_debian_12_there_is_no_incus_and_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"VERSION_CODENAME": "sid"})
    with pytest.raises(LabUnavailableError, match="of Debian on bookworm only"):
        packages.unpack_other(packages.INCUS, tmp_path / "programs")
    assert not (tmp_path / "programs").exists()
