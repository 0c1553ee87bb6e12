"""Why no container moves live: what LXD does when it is asked to, with the CRIU of this machine's Debian."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.lxd.migration import Transfer, offer_body, receive_body
from tests.lab import Lab, host, packages
from tests.lab.pulls import Site, finished

pytestmark = pytest.mark.lab

NAME = "live"
#: CRIU, and what LXD's own packages have not brought.
CRIU = ("criu", "libnet1", "libnl-3-200", "libprotobuf-c1", "libnftables1")


@pytest.fixture
def with_criu(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, Site]]:
    """Two servers whose daemons find CRIU; it is only unpacked."""
    packages.unpack(CRIU, tmp_path / "root")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/criu"
    (libraries,) = (tmp_path / "root/usr/lib").glob("*-linux-gnu")
    program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {tmp_path}/root/usr/sbin/criu "$@"\n')
    program.chmod(0o755)
    sites = Site.of(lab, "s1"), Site.of(lab, "s2")
    with monkeypatch.context() as changed:
        changed.setattr(host, "PATH", f"{program.parent}:{host.PATH}")
        for site in sites:
            site.clean()
            site.restart()
    yield sites
    for site in sites:
        site.restart()
        site.clean()


def test_a_container_that_is_moved_live_stays_where_it_is_and_runs_on(with_criu: tuple[Site, Site]) -> None:
    """Both operations fail: CRIU cannot dump it on this kernel, or cannot restore it below another LXD_DIR."""
    source, target = with_criu
    source.server.launch(NAME)
    instance = source.client.instance(NAME)
    live = {**offer_body(NAME, instance_only=False, allow_inconsistent=False), "live": True}
    offer = source.client._offered(f"/1.0/instances/{NAME}", "default", live)
    assert set(offer.secrets) == {"control", "criu", "fs"}
    transfer = Transfer(address=source.server.address, certificate=source.server.certificate.read_text(), offer=offer)
    body = receive_body(
        instance, name=NAME, config={}, devices=instance.devices, profiles=instance.profiles, source=transfer
    )
    received = finished(target.client, target.client.receive({**body, "source": {**body["source"], "live": True}}))
    assert not received.succeeded
    assert re.search(
        "migration (dump |restore )?failed", received.error
    )  # without the word if the source hangs up first
    assert source.client.instance(NAME).is_running
    assert target.client.instances() == ()
