"""A client for a remote: ``remotes`` says where it is and who we are, ``transport`` carries it."""

from common.lxd.client import LxdClient
from common.lxd.remotes import Remote
from common.lxd.transport import Transport


def connect(remote: Remote, *, connect_timeout: float = 5.0, read_timeout: float = 40.0) -> LxdClient:
    """A client; no connection is made yet. Raises InputError if the remote's certificates cannot be read."""
    transport = Transport(
        remote.address,
        server_certificate=remote.server_certificate.read_text() if remote.server_certificate else None,
        client_certificate=remote.client_certificate,
        client_key=remote.client_key,
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        name=remote.name,
    )
    return LxdClient(remote.name, transport)
