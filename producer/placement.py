"""Who goes where, with the reason for every choice and every refusal. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from common.domain.eligibility import findings, wanted_pool
from common.domain.fleet import Server
from common.domain.instance import Instance
from common.domain.plan import Finding, Move, Refusal
from common.domain.units import render_size


@dataclass
class Placement:
    """Places instance after instance; remembers what it has given to each target."""

    source: Server
    targets: Sequence[Server]
    _count: dict[str, int] = field(default_factory=dict)
    _names: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def place(self, instance: Instance, draft: Move) -> tuple[Move | Refusal, tuple[Finding, ...]]:
        """The move onto the best target, or the refusal with what stands in the way on each; and the warnings.

        ``draft`` is the move without its target. The best target is the one that got the fewest instances so far,
        among equals the one with the most room in the pool.
        """
        by_target = {server.remote: self._findings(instance, draft, server) for server in self.targets}
        open_to = [s for s in self.targets if not any(f.is_refusal for f in by_target[s.remote])]
        if not open_to:
            all_findings = _merged(by_target)
            refusal = Refusal(
                instance=instance.name, source=draft.source, project=instance.project, findings=all_findings
            )
            return refusal, ()
        best = min(open_to, key=lambda s: (self._count.get(s.remote, 0), -_free(instance, draft, s), s.remote))
        self._count[best.remote] = self._count.get(best.remote, 0) + 1
        self._names[best.remote, draft.target_project, draft.name] = instance.name
        move = replace(draft, target=best.remote, pool=wanted_pool(instance, draft))
        warnings = tuple(f for f in by_target[best.remote] if not f.is_refusal)
        return replace(move, reason=self._reason(instance, draft, best, open_to, by_target)), warnings

    def _findings(self, instance: Instance, draft: Move, target: Server) -> list[Finding]:
        found = list(findings(instance, replace(draft, target=target.remote), self.source, target))
        other = self._names.get((target.remote, draft.target_project, draft.name))
        if other is not None:
            message = f"{other} of this plan takes the name {draft.name} on {target.remote}"
            found.append(Finding(code="name_taken", message=message, hint="move it under another name"))
        return found

    def _reason(
        self,
        instance: Instance,
        draft: Move,
        best: Server,
        open_to: Sequence[Server],
        by_target: Mapping[str, Sequence[Finding]],
    ) -> str:
        if len(self.targets) == 1:
            return "the only target"
        if len(open_to) == 1:
            refused = ", ".join(
                f"{remote}: {next(f.message for f in found if f.is_refusal)}"
                for remote, found in by_target.items()
                if remote != best.remote
            )
            return f"the only one that can take it ({refused})"
        room = render_size(_free(instance, draft, best))
        return f"fewest instances of this plan so far, {room} free in pool {wanted_pool(instance, draft)}"


def _free(instance: Instance, draft: Move, target: Server) -> int:
    pool = target.pools.get(wanted_pool(instance, draft))
    return pool.free if pool else 0


def _merged(by_target: Mapping[str, Sequence[Finding]]) -> tuple[Finding, ...]:
    """Every finding once, in the order found."""
    unique = {(f.code, f.message): f for found in by_target.values() for f in found if f.is_refusal}
    return tuple(unique.values())
