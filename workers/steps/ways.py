"""Which server dials which, and at what address: the ways that a pass can take, and those that turned out to be closed.

Whether herder reaches a server says nothing of whether another server does, and LXD has no call to ask it. So a pass
is the probe: no byte moves before the connection stands, and a server that gets none says so. Asked by ``copying``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.domain.errors import PermanentError, TransferFailed
from common.domain.fleet import ServerInfo
from common.domain.plan import Mode, Policy
from common.lxd.client import LxdClient
from workers.steps.context import Context

#: Which modes a policy allows, in this order: a push cannot be cancelled, and a relay needs a worker all the time.
_ALLOWED = {
    Mode.AUTO: (Mode.PULL, Mode.PUSH, Mode.RELAY),
    Mode.PULL: (Mode.PULL,),
    Mode.PUSH: (Mode.PUSH,),
    Mode.RELAY: (Mode.RELAY,),
}
#: What LXD says if nothing answers at an address, or another server does.
_CLOSED = ("Unable to connect to", "x509:")


@dataclass(frozen=True, kw_only=True)
class Way:
    """The server ``dialler`` dials the server ``dialled`` at ``address``; in a relay a worker dials both."""

    mode: Mode
    dialler: str
    dialled: str
    address: str

    def __str__(self) -> str:
        if self.mode is Mode.RELAY:
            return f"{self.mode}: a worker dials {self.dialler} and {self.dialled}"
        return f"{self.mode}: {self.dialler} dials {self.dialled} at {self.address}"


def _allowed(policy: Policy) -> tuple[Mode, ...]:
    """What a policy allows, in this order; LXD has no cap for what goes directly between two servers."""
    return (Mode.RELAY,) if policy.rate else _ALLOWED[policy.mode]


def choose_way(ctx: Context, source: ServerInfo, target: ServerInfo) -> Way:
    """The way of the next pass: the last one that was open, or the first. Raises PermanentError if there is none."""
    found = [
        Way(mode=mode, dialler=dialler, dialled=dialled, address=address)
        for mode in _allowed(ctx.move.policy)
        for dialler, dialled, client, info in (_ends(ctx, mode, source, target),)
        for address in (("",) if mode is Mode.RELAY else client.addresses(info))
    ]
    if not found:
        silent = " and ".join(_ends(ctx, mode, source, target)[1] for mode in _allowed(ctx.move.policy))
        raise PermanentError(
            f"no address for the other server to dial on {silent}",
            hint=f"`lxc config set {silent.split()[0]}: core.https_address=[::]:8443`",
        )
    way = found[int(ctx.job.facts.get("closed", 0)) % len(found)]
    dialled_info = source if way.mode is Mode.PULL else target
    ctx.note(evidence={"way": str(way), "mode": way.mode.value, "dialled_pid": dialled_info.pid})
    return way


def _ends(ctx: Context, mode: Mode, source: ServerInfo, target: ServerInfo) -> tuple[str, str, LxdClient, ServerInfo]:
    """The name of who dials, and the name, the client and the record of who is dialled."""
    if mode is Mode.PULL:
        return ctx.move.target_place, ctx.move.source_place, ctx.source, source
    return ctx.move.source_place, ctx.move.target_place, ctx.target, target


def is_push(evidence: Mapping[str, Any]) -> bool:
    """Whether the pass that left this evidence is pushed."""
    return evidence.get("mode") == Mode.PUSH


def is_closed(text: str) -> bool:
    """Whether a server says so that it does not reach the other one."""
    return any(sign in text for sign in _CLOSED)


def closed_way(ctx: Context, text: str) -> TransferFailed:
    """The error of a pass that got no connection; the next one goes another way, after the last one the first again.

    A daemon that was restarted meanwhile proves nothing: then the way stays. Raises ServerUnreachable if the dialled
    server is down.
    """
    way = str(ctx.job.evidence.get("way", "an unknown way"))
    dialled = ctx.target if is_push(ctx.job.evidence) else ctx.source
    if dialled.info().pid == ctx.job.evidence.get("dialled_pid"):
        known = [each for each in ctx.job.facts.get("closed_ways", ()) if each != way]
        ctx.note(closed=int(ctx.job.facts.get("closed", 0)) + 1, closed_ways=[*known, way])
    return TransferFailed(f"no connection by {way}: {text}")
