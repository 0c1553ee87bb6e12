"""A plan while it is decided, move by move; for archives, and for volumes that go by themselves. Pure."""

from collections.abc import Sequence

from common.domain.fleet import Fleet
from common.domain.plan import Finding, Move, Plan, Refusal, Request


class Decided:
    """Moves, refusals and warnings, as they come. No two moves get the same name."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._moves: list[Move] = []
        self._refusals: list[Refusal] = []
        self._warnings: list[str] = []
        self._names: dict[str, Move] = {}

    def take(self, move: Move, findings: Sequence[Finding], *, name: str) -> None:
        """One more, with what stands in its way."""
        other = self._names.setdefault(name, move)
        if other is not move:
            message = f"{other.instance} of project {other.project} takes the name {name}"
            taken = Finding(code="name_taken", message=message, hint="name one of the two in a command of its own")
            findings = (*findings, taken)
        refused = tuple(finding for finding in findings if finding.is_refusal)
        if refused:
            refusal = Refusal(instance=move.instance, source=move.source, project=move.project, findings=refused)
            self._refusals.append(refusal)
            return
        self._moves.append(move)
        self._warnings += [f"{move.instance}: {finding.message}; {finding.hint}" for finding in findings]

    def plan(self, fleet: Fleet, plan_id: str) -> Plan:
        """All of it."""
        return Plan(
            id=plan_id,
            name=self._request.name,
            created_at=fleet.seen_at,
            request=self._request,
            moves=tuple(self._moves),
            refusals=tuple(self._refusals),
            warnings=tuple(self._warnings),
        )
