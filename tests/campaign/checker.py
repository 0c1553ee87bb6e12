"""The judge of a trial: reads what the simulated servers have written down and what is on them, and nothing else.

It knows no step and no guard state of herder's record; from the jobs it takes only how each ended.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from common.domain.generation import is_backup_snapshot
from tests.campaign.shelves import check_volumes
from tests.simulator import Entry, Fleet
from tests.simulator.model import Instance
from tests.simulator.server import Server

GUARD = "herder-guard"
MARK = "user.herder."
BACKUP_STATE = "user.herder-backup-state"
COPY_OF = "user.herder-copy-of"
_TRANSIENT = ("volatile.", MARK)


@dataclass(frozen=True)
class Before:
    """An instance as it was when the trial began."""

    name: str
    server: str
    ran: bool
    token: str
    config: Mapping[str, str]
    profiles: tuple[str, ...]
    snapshots: Mapping[str, str]
    volumes: Mapping[str, str]
    copy: "Before | None" = None


@dataclass(frozen=True)
class Ending:
    """How the job of an instance ended.

    ``state`` is ``done``, ``cancelled``, ``parked`` or, if Redis has lost the job, ``forgotten``.
    ``is_copy``: the source goes on as it was, and the target has another instance, stopped. ``back``: it was brought
    back from its target. ``may_forget_wrecks``: Redis has lost records, and with them the names of wrecks that were set
    aside; they still tell by themselves what they are.
    """

    instance: str
    state: str
    source: str
    target: str
    keeps_source: bool
    is_copy: bool = False
    is_backup: bool = False
    back: bool = False
    why: str = ""
    hint: str = ""
    wrecks: tuple[str, ...] = ()
    may_forget_wrecks: bool = False


@dataclass
class _Life:
    """What is known of one machine while its history is read."""

    running: set[str] = field(default_factory=set)
    last_stop: str = ""
    own_stop: dict[str, str] = field(default_factory=dict)
    good: set[str] = field(default_factory=set)


def before(fleet: Fleet) -> dict[str, Before]:
    """Every instance, by name, with the copy of it that is there already."""
    all_of_them = [
        (server, each)
        for server in fleet.servers.values()
        for each in server.instances.values()
        if BACKUP_STATE not in each.config
    ]
    copies = {each.name: _before(server, each) for server, each in all_of_them if COPY_OF in each.config}
    return {
        each.name: replace(_before(server, each), copy=copies.get(each.name))
        for server, each in all_of_them
        if COPY_OF not in each.config
    }


def _before(server: Server, each: Instance) -> Before:
    return Before(
        name=each.name,
        server=server.name,
        ran=each.is_alive,
        token=each.data.token if each.data else "",
        config=_own(each.config),
        profiles=tuple(each.profiles),
        snapshots={s.name: s.data.token for s in each.snapshots.values() if s.data},
        volumes={v.name: v.data.token for v in server.volumes_of(each) if v.data},
    )


def check(fleet: Fleet, were: Mapping[str, Before], endings: Iterable[Ending]) -> list[str]:
    """What is wrong, in words; empty if all is well."""
    known = {ending.instance: ending for ending in endings}
    back = {name for name, ending in known.items() if ending.back}
    copies = {(ending.target, name) for name, ending in known.items() if ending.is_copy}
    history = fleet.history()
    found = check_history([e for e in history if (e.server, e.instance) not in copies], were, back)
    found += _check_copies_history(history, copies)
    for was in were.values():
        ending = known.get(was.name)
        if ending is not None and ending.is_copy and not ending.is_backup:
            found += _check_copy(fleet, was, ending)
        found += _check_end(fleet, was, ending)
        found += check_volumes(fleet, was, ending)
    return found + _check_leftovers(fleet, were, known)


def check_history(history: Iterable[Entry], were: Mapping[str, Before], back: set[str]) -> list[str]:
    """Never two running copies, never zero good ones, and what runs is what was stopped."""
    lives = {name: _Life({was.server} if was.ran else set(), was.token, {}, {was.server}) for name, was in were.items()}
    names: dict[tuple[str, str], str] = {}
    found: list[str] = []
    first = {name: was.ran for name, was in were.items()}
    for entry in sorted(history, key=lambda each: (each.at, each.kind != "stopped")):
        if entry.kind == "renamed":
            names[entry.server, entry.instance] = "(aside)"
            continue
        if entry.kind == "created":
            names.pop((entry.server, entry.instance), None)
        name = names.get((entry.server, entry.instance), entry.instance)
        life = lives.get(name)
        if life is None:
            continue
        if entry.kind == "started" and first.pop(name, False):
            continue  # it was there from the beginning
        found += _live(life, entry, name, is_back=name in back)
    return found


def _check_copies_history(history: Iterable[Entry], copies: set[tuple[str, str]]) -> list[str]:
    """A copy never runs: whoever wants it to will start it when herder is done."""
    started = [entry for entry in history if entry.kind == "started" and (entry.server, entry.instance) in copies]
    return [f"the copy of {entry.instance} was started on {entry.server}, at {entry.at:.2f} s" for entry in started]


def _check_copy(fleet: Fleet, was: Before, ending: Ending) -> list[str]:
    """Done, it is there, whole, free and stopped; cancelled, nothing of it is."""
    copy = fleet.servers[ending.target].instances.get(("default", was.name))
    if was.copy is not None:
        return _check_refreshed(fleet, was, was.copy, ending, copy)
    if copy is None:
        return [f"the copy of {was.name} is not there"] if ending.state == "done" else []
    told = _told(fleet, ending.target, copy)
    if ending.state == "cancelled":
        return [f"the cancelled copy of {was.name} is there: {told}"]
    if ending.state == "parked":
        return []
    found = []
    if copy.is_alive or copy.data is None or copy.data.torn.startswith("+"):
        found.append(f"the copy of {was.name} is {told}")
    config = {key: value for key, value in _own(copy.config).items() if key != COPY_OF}
    if config != was.config or COPY_OF not in copy.config:
        found.append(f"the copy of {was.name} has config {_own(copy.config)}, not {was.config}")
    snapshots = {s.name: s.data.token if s.data else "phantom" for s in copy.snapshots.values()}
    if snapshots != was.snapshots:
        found.append(f"the copy of {was.name} has snapshots {snapshots}, not {was.snapshots}")
    return found


def _check_refreshed(fleet: Fleet, was: Before, old: Before, ending: Ending, copy: Instance | None) -> list[str]:
    """Done, it has the source's data and snapshots, cancelled its old ones, and its own config in any case."""
    if ending.state == "parked":
        return []
    if copy is None or copy.data is None or copy.is_alive:
        return [f"the refreshed copy of {was.name} is {_told(fleet, ending.target, copy) if copy else 'not there'}"]
    config = {key: value for key, value in _own(copy.config).items() if not key.startswith("user.herder-")}
    wanted = {key: value for key, value in old.config.items() if not key.startswith("user.herder-")}
    found = [] if config == wanted else [f"the refreshed copy of {was.name} has config {config}, not {wanted}"]
    found += [] if COPY_OF in copy.config else [f"the refreshed copy of {was.name} does not tell whose it is"]
    snapshots = {s.name: s.data.token if s.data else "phantom" for s in copy.snapshots.values()}
    is_old = copy.data.token == old.token and snapshots == old.snapshots
    is_new = copy.data.token != old.token and not copy.data.torn.startswith("+") and snapshots == was.snapshots
    if not {"done": is_new, "cancelled": is_old}.get(ending.state, is_old or is_new):
        found.append(f"the {ending.state} refresh of {was.name} has {copy.data.token} with {snapshots}")
    return found


def _live(life: _Life, entry: Entry, name: str, *, is_back: bool) -> list[str]:  # noqa: C901 - a case for each kind
    """One entry of one machine's history."""
    found: list[str] = []
    where, at = entry.server, f"at {entry.at:.2f} s"
    if entry.kind == "started":
        token = entry.detail["token"]
        others = life.running - {where}
        if others:
            found.append(f"{name} was started on {where} while it ran on {', '.join(sorted(others))}, {at}")
        wanted = {life.last_stop} | ({life.own_stop.get(where, "")} if is_back else set())
        if token not in wanted:
            found.append(f"{name} was started on {where} with {token}, but was stopped with {life.last_stop}, {at}")
        life.running.add(where)
        life.good = {where}
    elif entry.kind == "stopped":
        life.running.discard(where)
        life.last_stop = life.own_stop[where] = entry.detail["token"]
        life.good = {where}
    elif entry.kind == "received":
        whole = not entry.detail.get("torn") and not life.running and entry.detail["token"] == life.last_stop
        if where in life.running:
            found.append(f"{name} was overwritten on {where} while it ran there, {at}")
        (life.good.add if whole else life.good.discard)(where)
        if not life.good:
            found.append(f"{name} has no good copy any more: it was overwritten on {where}, {at}")
    elif entry.kind == "deleted":
        had = where in life.good
        life.good.discard(where)
        if had and not life.good:
            found.append(f"{name} has no good copy any more: the last one was deleted on {where}, {at}")
        if had and life.last_stop and not life.running and life.own_stop.get(where) and not is_back:
            found.append(f"{name} was deleted on {where}, where it was stopped, and ran nowhere, {at}")
    return found


def _check_end(fleet: Fleet, was: Before, ending: Ending | None) -> list[str]:
    """It lives on exactly one side, as it was."""
    if ending is not None and ending.state == "parked" and (not ending.why or not ending.hint):
        return [f"{was.name} is parked without a reason or a hint: {ending.why!r}, {ending.hint!r}"]
    sides = {
        s.name: s.instances["default", was.name]
        for s in fleet.servers.values()
        if ("default", was.name) in s.instances and not (ending and ending.is_copy and s.name == ending.target)
    }
    live = {name: each for name, each in sides.items() if not _is_guarded(fleet, name, each) and each.data is not None}
    if ending is not None and ending.state not in ("done", "cancelled", "parked", "forgotten"):
        return [f"{was.name}: its job is {ending.state}"]
    if len(live) != 1:
        told = {name: _told(fleet, name, each) for name, each in sides.items()}
        return [f"{was.name} can run on {len(live)} sides: {told}"]
    ((where, instance),) = live.items()
    found = []
    if ending is not None and ending.state in ("done", "cancelled"):
        home = ending.target if ending.state == "done" and not ending.is_copy else ending.source
        if where != home:
            found.append(f"{was.name} is {ending.state}, and on {where} instead of {home}")
    if instance.is_alive is not was.ran or instance.status == "Frozen":
        found.append(f"{was.name} is {instance.status} on {where}; it {'ran' if was.ran else 'was stopped'}")
    if not was.ran and instance.data and instance.data.token != was.token:
        found.append(f"{was.name} on {where} has {instance.data.token}, not {was.token}")
    parked = ending is not None and ending.state == "parked"
    if not parked and _own(instance.config) != was.config:
        found.append(f"{was.name} on {where} has config {_own(instance.config)}, not {was.config}")
    snapshots = {s.name: s.data.token if s.data else "phantom" for s in instance.snapshots.values()}
    lost = {name: token for name, token in was.snapshots.items() if snapshots.get(name) != token}
    if lost:
        found.append(f"{was.name} on {where} lacks snapshots {lost}; it has {snapshots}")
    return found


def _check_leftovers(fleet: Fleet, were: Mapping[str, Before], endings: Mapping[str, Ending]) -> list[str]:
    """Nothing of ours on servers but parked jobs' work and retired sources."""
    found = []
    parked = {name for name, ending in endings.items() if ending.state == "parked"}
    forgets = any(ending.may_forget_wrecks for ending in endings.values())
    wrecks = {place for ending in endings.values() for place in ending.wrecks}
    for server in fleet.servers.values():
        if not parked:
            found += [f"profile {n} is left on {server.name}" for _, n in server.profiles if n.startswith("herder-")]
        for (_, name), instance in server.instances.items():
            place = f"{server.name}:{name}"
            if BACKUP_STATE in instance.config and "-wreck-" not in name:
                continue
            if name not in were:
                is_told = place in wrecks or (forgets and f"-wreck-{instance.config.get(MARK + 'job')}" in name)
                is_kept = name.partition("-kept-")[0] in parked
                found += [] if is_told or is_kept else [f"{place} is left over"]
                continue
            if name in parked:
                continue
            ending = endings.get(name)
            ours = [n for n in instance.snapshots if n.startswith("herder-") and not is_backup_snapshot(n)]
            found += [f"snapshot {n} is left on {place}" for n in ours]
            found += [f"profile {n} is left in {place}" for n in instance.profiles if n.startswith("herder-")]
            if not _is_guarded(fleet, server.name, instance):
                marks = sorted(key for key in instance.config if key.startswith(MARK))
                found += [f"marks are left on {place}: {', '.join(marks)}"] if marks else []
            elif ending is None or not _may_stay(ending, server.name):
                found.append(f"{place} is left over: {_told(fleet, server.name, instance)}")
            elif instance.config.get(f"{MARK}state") != "retired" or instance.is_alive:
                found.append(f"{place} is not retired: {_told(fleet, server.name, instance)}")
    return found


def _may_stay(ending: Ending, server: str) -> bool:
    if ending.state == "forgotten":
        return ending.keeps_source
    if ending.back:
        return server == ending.target
    return ending.state == "done" and ending.keeps_source and not ending.is_copy and server == ending.source


def _is_guarded(fleet: Fleet, server: str, instance: Instance) -> bool:
    profiles = [fleet.servers[server].profile(instance.project, name) for name in instance.profiles]
    return GUARD in instance.devices or any(profile is not None and GUARD in profile.devices for profile in profiles)


def _told(fleet: Fleet, server: str, instance: Instance) -> str:
    guarded = "guarded" if _is_guarded(fleet, server, instance) else "free"
    state = instance.config.get(f"{MARK}state", "no mark")
    return f"{instance.status}, {guarded}, {state}, {instance.data.token if instance.data else 'no data'}"


def _own(config: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in config.items() if not key.startswith(_TRANSIENT)}
