"""Roles that one worker of all has at a time, by a lease that it keeps prolonging: who listens, who probes."""

from datetime import timedelta

from redis import Redis


def take_role(client: "Redis", key: str, worker: str, lease: timedelta) -> bool:
    """Become, or stay, the one that has it. Two at once must be harmless."""
    if client.set(key, worker, nx=True, px=lease):
        return True
    if client.get(key) == worker.encode():
        client.pexpire(key, lease)
        return True
    return False


def leave_role(client: "Redis", key: str, worker: str) -> None:
    """Stop being the one that has it, if this worker is."""
    if client.get(key) == worker.encode():
        client.delete(key)
