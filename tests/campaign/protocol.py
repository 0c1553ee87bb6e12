"""The guard's protocol as a model: all interleavings of two workers, late requests, and what else starts instances.

One job, one source, one target. A worker reads the guard's profile with its ETag, confirms the fence, and sends;
between any two of these the other one may take the job over, Redis may fall back to an older record, a daemon or a
person may try to start either side. ``explore`` visits every state that can be reached.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

FREE, GUARDS, SEALED, OPEN = "free", "guards", "handed-over", "open"
#: Forward, then the two steps of the way back.
ARM, STOP, COPY, SEAL, RELEASE, START, DONE, UNGUARD, RESTART, BACK = range(10)
FORWARD_ENDS, BACK_ENDS = DONE, BACK


@dataclass(frozen=True)
class Rules:
    """What of the protocol holds; a model without one of them must break."""

    etag: bool = True  # a change is refused if the profile has changed since it was read
    seal_is_final: bool = True  # who reads that it was handed over does not take the guard off
    copy_is_guarded: bool = True  # the copy is created with the guard


@dataclass(frozen=True)
class Hand:
    """A worker. ``sends`` is the change that it is about to send, with the version of the profile it has read."""

    holds: bool = False
    sends: int = -1
    read: int = 0


@dataclass(frozen=True)
class World:
    """``version`` is the profile's ETag. ``copy`` and ``data`` are versions of the data; a copy of -1 is none."""

    step: int = ARM
    earlier: int = ARM  # the record that Redis may fall back to
    losses: int = 1
    cancels: int = 1
    guard: str = FREE
    version: int = 0
    source_runs: bool = True
    copy_guarded: bool = True
    target_runs: bool = False
    copy_is_last: bool = False  # the copy has what the source had when it was stopped
    hands: tuple[Hand, Hand] = (Hand(), Hand())

    @property
    def source_is_free(self) -> bool:
        return self.guard in (FREE, OPEN)


def broken(world: World) -> str:
    """The rule that this state breaks, or ``""``."""
    if world.source_runs and world.target_runs:
        return "both run"
    if world.target_runs and not world.copy_is_last:
        return "the target runs with old data"
    if world.source_is_free and not world.copy_guarded:
        return "both can start"
    return ""


def following(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """Everything that can happen next."""
    for number in (0, 1):
        yield from _of_worker(world, number, rules)
    if world.losses and world.step != world.earlier:
        yield "Redis falls back", replace(world, step=world.earlier, losses=0)
    if world.cancels and world.step <= SEAL:
        yield "a cancel", replace(world, step=UNGUARD, cancels=0)
    if world.source_is_free and not world.source_runs:
        yield "the source starts", replace(world, source_runs=True, copy_is_last=False)
    if not world.copy_guarded and not world.target_runs:
        yield "the target starts", replace(world, target_runs=True)


def _of_worker(world: World, number: int, rules: Rules) -> Iterator[tuple[str, World]]:
    hand, name = world.hands[number], "AB"[number]
    if not hand.holds:
        # The other one's lease may be over at any time; what it is about to send stays about to be sent.
        other = replace(world.hands[1 - number], holds=False)
        yield f"{name} takes the job", _with(replace(world, hands=_pair(number, hand, other)), number, Hand(holds=True))
    if hand.sends >= 0:
        yield f"{name} sends {hand.sends}", _with(_sent(world, hand, rules), number, replace(hand, sends=-1))
    elif hand.holds and world.step not in (FORWARD_ENDS, BACK_ENDS):
        if _may_send(world, rules):
            about = replace(hand, sends=world.step, read=world.version)
            yield f"{name} has read for {world.step}", _with(world, number, about)
        if _is_reached(world):
            yield f"{name} goes on", replace(world, step=_next(world), earlier=world.step)
        if _must_turn(world, rules):
            yield f"{name} goes forward again", replace(world, step=RELEASE, earlier=world.step)
        elif _must_give_back(world):
            yield f"{name} goes back", replace(world, step=UNGUARD, earlier=world.step)


def _may_send(world: World, rules: Rules) -> bool:
    """What a worker looks at before it confirms the fence and sends."""
    if world.step == UNGUARD:
        sealed = rules.seal_is_final and world.guard == SEALED
        return not world.source_is_free and not world.target_runs and not sealed
    if world.step in (STOP, COPY):
        return not world.source_is_free
    if world.step == SEAL:
        return world.copy_is_last and not world.source_runs and world.guard == GUARDS
    if world.step == RELEASE:
        return world.guard == SEALED and not world.source_runs
    return world.step != ARM or world.guard != SEALED or not rules.seal_is_final


def _sent(world: World, hand: Hand, rules: Rules) -> World:  # noqa: PLR0911 - one for each change
    """The server has carried out what was sent, however late, unless it refuses."""
    is_current = hand.read == world.version or not rules.etag
    changed = replace(world, version=world.version + 1)
    if hand.sends == ARM and is_current:
        return replace(changed, guard=GUARDS)
    if hand.sends == SEAL and is_current:
        return replace(changed, guard=SEALED)
    if hand.sends == UNGUARD and is_current:
        return replace(changed, guard=OPEN)
    if hand.sends == STOP:
        return replace(world, source_runs=False)
    if hand.sends == COPY and not world.target_runs and world.copy_guarded:
        return replace(world, copy_is_last=not world.source_runs, copy_guarded=rules.copy_is_guarded)
    if hand.sends == RELEASE:
        return replace(world, copy_guarded=False)
    if hand.sends == START and not world.copy_guarded:
        return replace(world, target_runs=True)
    if hand.sends == RESTART and world.source_is_free:
        return replace(world, source_runs=True, copy_is_last=False)
    return world


def _is_reached(world: World) -> bool:
    """Whether the world is as the step wants it."""
    return {
        ARM: not world.source_is_free,
        STOP: not world.source_runs,
        COPY: world.copy_is_last,
        SEAL: world.guard == SEALED,
        RELEASE: not world.copy_guarded,
        START: world.target_runs,
        UNGUARD: world.source_is_free,
        RESTART: world.source_runs,
    }[world.step]


def _next(world: World) -> int:
    return world.step + 1


def _must_turn(world: World, rules: Rules) -> bool:
    return rules.seal_is_final and world.guard == SEALED and world.step in (ARM, STOP, COPY, UNGUARD, RESTART)


def _must_give_back(world: World) -> bool:
    return world.step in (STOP, COPY, SEAL) and world.source_is_free


def _with(world: World, number: int, hand: Hand) -> World:
    return replace(world, hands=_pair(number, hand, world.hands[1 - number]))


def _pair(number: int, hand: Hand, other: Hand) -> tuple[Hand, Hand]:
    return (other, hand) if number else (hand, other)


def _canonical(world: World) -> World:
    """The same state with the smallest versions: only which reader has read the present one matters."""
    stale = [replace(hand, read=1 if hand.sends >= 0 and hand.read == world.version else 0) for hand in world.hands]
    return replace(world, version=1, hands=(stale[0], stale[1]))


@dataclass(frozen=True)
class Explored:
    """How many states there are; ``way`` leads to the first one that breaks a rule, and is empty if none does."""

    states: int
    rule: str = ""
    way: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()


def explore(rules: Rules, judge: Callable[[World], str] = broken) -> Explored:
    """Visit every state, nearest first."""
    begin = _canonical(World())
    came: dict[World, tuple[World, str] | None] = {begin: None}
    waiting, ends = deque([begin]), set()
    while waiting:
        world = waiting.popleft()
        ends.add(world.step)
        rule = judge(world)
        if rule:
            return Explored(len(came), rule, _way(came, world))
        for what, coming in following(world, rules):
            known = _canonical(coming)
            if known not in came:
                came[known] = (world, what)
                waiting.append(known)
    return Explored(len(came), ends=frozenset(ends))


def _way(came: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    steps: list[str] = []
    while (before := came[world]) is not None:
        world, what = before
        steps.append(what)
    return tuple(reversed(steps))
