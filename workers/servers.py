"""The LXD clients of a worker process: one per remote, shared by its threads."""

import threading

from common.config import Settings
from common.lxd.client import LxdClient
from common.lxd.connect import connect
from common.lxd.remotes import Remotes


class Servers:
    """Clients by remote name, made when first asked for."""

    def __init__(self, remotes: Remotes, settings: Settings) -> None:
        self._remotes = remotes
        self._settings = settings
        self._clients: dict[str, LxdClient] = {}
        self._lock = threading.Lock()

    def __call__(self, remote: str) -> LxdClient:
        """The client of a remote. Raises UnknownRemote."""
        with self._lock:
            if remote not in self._clients:
                self._clients[remote] = connect(
                    self._remotes.get(remote),
                    connect_timeout=self._settings.connect_timeout,
                    read_timeout=self._settings.read_timeout,
                )
            return self._clients[remote]
