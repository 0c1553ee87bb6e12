"""After this pass: pass again, or cut over? A pure rule on how long passes took and the downtime budget.

What a pass sends was written while the one before it ran, so with a steady writer passes shrink by a constant factor,
and a next one takes about as long as the last or less. LXD tells no dirty rate and no remaining size: durations are
all there is to decide on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

MAX_PASSES = 10
#: A pass that took more than this share of the one before it shows that the writer keeps up with us.
SHRINKING = 0.8


@dataclass(frozen=True, kw_only=True)
class Decision:
    """``again``: one more refresh pass; otherwise cut over. ``reason`` is for the operator."""

    again: bool
    reason: str


def decide(took: Sequence[timedelta], budget: timedelta) -> Decision:
    """Decide after the passes that took ``took``, the full pass first; at least one."""
    last = took[-1]
    if last <= budget:
        return Decision(
            again=False, reason=f"the last pass took {_s(last)}, within the downtime budget of {_s(budget)}"
        )
    if len(took) >= MAX_PASSES:
        return Decision(again=False, reason=f"{len(took)} passes are enough; the last took {_s(last)}")
    if len(took) > 2 and last > took[-2] * SHRINKING:  # noqa: PLR2004 - full against refresh says nothing of the writer
        return Decision(again=False, reason=f"passes stopped shrinking at {_s(last)}")
    return Decision(again=True, reason=f"the last pass took {_s(last)}, more than the downtime budget of {_s(budget)}")


def _s(value: timedelta) -> str:
    return f"{value.total_seconds():.1f} s"
