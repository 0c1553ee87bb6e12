"""From a bare daemon to a server of the lab: address, pool, profile, cluster, images, and a client that all trust."""

import base64
import json
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.lxd.trust import client_certificate
from tests.lab import host
from tests.lab.server import LabServer

SETTINGS = {"config": {"images.auto_update_interval": "0"}}
POOL_SIZE = "24GiB"  # a sparse file, so it costs what is in it


def stand_alone(server: LabServer, bridge: str) -> None:
    """Give a bare server its address, pool and default profile."""
    _init(server, _basics(server, bridge))
    server.query("PATCH", "/1.0", SETTINGS)


def cluster(members: Sequence[LabServer], bridge: str) -> None:
    """Make bare servers one cluster, the first as its founder."""
    founder, *others = members
    _init(founder, {**_basics(founder, bridge), "cluster": {"enabled": True, "server_name": founder.name}})
    for member in others:  # one after the other: LXD refuses to join two at a time
        token = founder.lxc("cluster", "add", member.name, "--quiet").split()[-1]
        joining = {
            "enabled": True,
            "server_name": member.name,
            "server_address": f"127.0.0.1:{member.port}",
            "cluster_token": token,
            "member_config": [{"entity": "storage-pool", "name": "default", "key": "size", "value": POOL_SIZE}],
        }
        _init(member, {"cluster": joining})
    founder.query("PATCH", "/1.0", SETTINGS)  # only now: a member does not learn settings from before it joined


def import_images(server: LabServer, tarballs: Mapping[str, Path]) -> None:
    """Import the images that the server does not have yet under their aliases."""
    present = {entry["name"] for entry in server.query("GET", "/1.0/images/aliases?recursion=1")}
    for alias, tarball in tarballs.items():
        if alias not in present:
            server.lxc("image", "import", str(tarball), "local:", "--alias", alias, "--quiet")


def trust(server: LabServer, configuration: Path) -> None:
    """Make the server a remote of the `lxc` configuration, which it trusts from then on."""
    remote = server.cluster or server.name
    environment = {"LXD_CONF": str(configuration)}
    configuration.mkdir(exist_ok=True)
    known = json.loads(host.run("lxc", "remote", "list", "--format=json", env=environment))
    if remote in known:
        seen = configuration / "servercerts" / f"{remote}.crt"
        if known[remote]["Addr"] == server.address and seen.read_text() == server.certificate.read_text():
            return  # a server that was made anew has another certificate, and does not know us
        host.run("lxc", "remote", "remove", remote, env=environment)
    if server.product.is_incus:
        # Its tokens are read by its own client only, so the client's certificate itself is put into its trust store.
        certificate, _ = client_certificate(configuration)
        der = base64.b64encode(ssl.PEM_cert_to_DER_cert(certificate.read_text())).decode()
        server.query("POST", "/1.0/certificates", {"type": "client", "name": "herder-lab", "certificate": der})
        host.run("lxc", "remote", "add", remote, server.address, "--accept-certificate", env=environment)
        return
    token = server.lxc("config", "trust", "add", "--name", "herder-lab", "--quiet").split()[-1]
    host.run("lxc", "remote", "add", remote, token, "--accept-certificate", env=environment)


def _basics(server: LabServer, bridge: str) -> dict[str, Any]:
    pool_config = {} if server.driver == "dir" else {"size": POOL_SIZE}
    return {
        "config": {"core.https_address": f"127.0.0.1:{server.port}"},
        "storage_pools": [{"name": "default", "driver": server.driver, "config": pool_config}],
        "profiles": [
            {
                "name": "default",
                "devices": {
                    "root": {"type": "disk", "path": "/", "pool": "default"},
                    "eth0": {"type": "nic", "nictype": "bridged", "parent": bridge},
                },
            }
        ],
    }


def _init(server: LabServer, preseed: dict[str, Any]) -> None:
    # YAML is what the command reads, and JSON is YAML.
    host.run(*server.product.init, env=server.product.environment(server.lxd_dir), text=json.dumps(preseed))
