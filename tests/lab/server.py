"""One server of the lab as tests see it: commands, requests, instances, and the ways to hurt it."""

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import api, debris, host
from tests.lab.daemon import Daemon
from tests.lab.product import LXD, Product


@dataclass(frozen=True)
class LabServer:
    """A running or stopped server, of LXD or of Incus.

    `name` is its name in the lab, as remote of `lxc` and as member of the cluster; `driver` that of its only pool,
    `default`; `cluster` is the remote of the cluster that it is a member of, or None.
    """

    name: str
    root: Path
    port: int
    driver: str
    cluster: str | None
    product: Product = LXD

    @property
    def daemon(self) -> Daemon:
        return Daemon(self.root / self.name, self.product)

    @property
    def lxd_dir(self) -> Path:
        return self.daemon.folder

    @property
    def socket(self) -> Path:
        return self.daemon.socket

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process number of the daemon; None when it does not run."""
        process = self.daemon.process
        return process.pid if process else None

    @property
    def certificate(self) -> Path:
        """The certificate that it shows over HTTPS; the members of a cluster share one."""
        return self.lxd_dir / ("cluster.crt" if self.cluster else "server.crt")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, as LXD prints it."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).hexdigest()

    def lxc(self, *args: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002 - as in subprocess
        """Output of the real `lxc`, or of `incus`, through the unix socket; LabError if it fails and `check` is set."""
        return host.run(self.product.client, *args, env=self.product.environment(self.lxd_dir), text=input, check=check)

    def query(self, method: str, path: str, body: api.Json | None = None, *, seconds: float = 120) -> Any:
        """A request through the unix socket, for example `query("GET", "/1.0/instances?recursion=1")`.

        Returns the `metadata`; of a background operation it awaits the end and returns the final operation.
        RefusedError if LXD says no or the operation fails, LabError if there is no answer within `seconds`.
        """
        return api.call(self.socket, method, path, body, seconds=seconds)

    def kill(self) -> None:
        """SIGKILL the daemon only; its containers run on."""
        self.daemon.kill()

    def freeze(self) -> None:
        """SIGSTOP the daemon: it keeps its connections and answers nothing."""
        self.daemon.freeze()

    def thaw(self) -> None:
        """SIGCONT the daemon."""
        self.daemon.thaw()

    def start(self) -> None:
        """Start the daemon if it does not run, and wait until its API answers.

        One member of a cluster alone does not answer: after killing two, bring them back together with `Lab.up`.
        """
        self.daemon.spawn()
        self.daemon.wait_ready()

    def launch(
        self,
        name: str,
        *,
        image: str = "tiny",
        config: Mapping[str, str] | None = None,
        devices: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Create and start a container; in a cluster it is placed on this member."""
        body = {
            "name": name,
            "source": {"type": "image", "alias": image},
            "config": dict(config or {}),
            "devices": {device: dict(keys) for device, keys in (devices or {}).items()},
        }
        target = f"?target={self.name}" if self.cluster else ""
        self.query("POST", f"/1.0/instances{target}", body)
        self.query("PUT", f"/1.0/instances/{name}/state", {"action": "start", "timeout": -1})

    def delete_all(self) -> None:
        """Delete every instance in every project, running, protected or broken, and what broken transfers left on disk.

        In a cluster that is every instance of the cluster, so all its members must run. Operations that run are
        cancelled first. LabError if something would not go.
        """
        if self.cluster:
            members = [url.rsplit("/", 1)[1] for url in self.query("GET", "/1.0/cluster/members")]
            debris.clear({member: Daemon(self.root / member, self.product) for member in members})
        else:
            debris.clear({"none": self.daemon})
