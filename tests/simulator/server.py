"""One simulated server: its state, and ``handle(request) -> response``, which never waits, sleeps or opens a socket.

What may be asked is in the modules that fill ``router``; time passes in ``clock``; other servers are reached through
``fleet``, as a target dials its source. Everything here is done by whoever holds the clock's lock.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.simulator import http, records, states, validation
from tests.simulator.certificates import Identity
from tests.simulator.clock import Clock, Timer
from tests.simulator.events import Events
from tests.simulator.history import Entry, History
from tests.simulator.http import Refused, Request, Response
from tests.simulator.model import IMAGES, Data, Image, Instance, Pool, Profile, Volume
from tests.simulator.operations import Operations
from tests.simulator.router import router

if TYPE_CHECKING:
    from tests.simulator.fleet import Fleet
    from tests.simulator.transfer import Transfer

#: Requests that a stranger may make.
_OF_PROJECTS = frozenset({"instances", "profiles", "networks", "operations"})
_OPEN = {("GET", ()), ("POST", ("certificates",))}


class Server:
    """``bandwidth`` in bytes per second, shared by all transfers from and to it; ``cpus`` by starts and stops."""

    def __init__(
        self, fleet: "Fleet", name: str, identity: Identity, *, address: str, bandwidth: float, cpus: int
    ) -> None:
        self.fleet = fleet
        self.name = name
        self.identity = identity
        self.address = address
        self.bandwidth = bandwidth
        self.cpus = cpus
        self.location = "none"
        self.product, self.version = "lxd", "5.0.2"
        self.clock: Clock = fleet.clock
        self.history = History()
        self.instances: dict[tuple[str, str], Instance] = {}
        self.profiles: dict[tuple[str, str], Profile] = {("default", "default"): Profile("default", "default")}
        self.pools: dict[str, Pool] = {}
        self.networks: dict[str, set[str]] = {"default": set()}
        self.projects: dict[str, dict[str, str]] = {"default": {}}
        self.images: dict[str, Image] = dict(IMAGES)
        self.trusted: dict[str, frozenset[str] | None] = {}
        self.tokens: dict[str, frozenset[str] | None] = {}
        self.host_paths: set[str] = {"/etc", "/dev/null"}
        self.pid = fleet.new_pid()
        self.is_up = True
        self.is_frozen = False
        self.is_shutting_down = False
        self.events = Events(self)
        self.operations = Operations(self)
        self.offers: dict[str, Any] = {}
        self.expected: dict[str, Any] = {}
        self.transfers: list[Transfer] = []
        self.working = 0
        #: What faults make of certain instances: names whose stop never ends, and how many starts of a name fail.
        self.stubborn: set[str] = set()
        self.failing_starts: dict[str, int] = {}
        #: What meets the next transfer from or to here.
        self.meeting: list[Callable[[Transfer], None]] = []
        #: Called when its daemon has died or was started.
        self.watchers: list[Callable[[], None]] = []
        self._frozen_timers: list[Callable[[], None]] = []

    def handle(self, request: Request) -> Response:
        """Answer one request, at once; a ``/wait`` is answered as if its time were up."""
        try:
            self._admit(request)
            return router.answer(self, request)
        except Refused as refusal:
            return http.refused(refusal)

    def trusts(self, client: str) -> bool:
        return client in self.trusted

    def may_see(self, client: str, project: str) -> bool:
        """Whether a certificate, which may be restricted, may see a project."""
        allowed = self.trusted[client]
        return allowed is None or project in allowed

    def _admit(self, request: Request) -> None:
        if self.is_shutting_down and request.method != "GET":
            raise Refused(503, "LXD is shutting down")
        if not self.trusts(request.client):
            if (request.method, request.parts) in _OPEN:
                return
            raise Refused(403, "not authorized")
        of_a_project = bool(request.parts) and request.parts[0] in _OF_PROJECTS and "all-projects" not in request.query
        if of_a_project and not self.may_see(request.client, request.project):
            raise Refused(403, "not authorized")

    # What the modules of the endpoints use.

    def timestamp(self, at: float | None = None) -> str:
        """A time as LXD writes it."""
        return self.clock.moment(at).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")

    def new_id(self) -> str:
        return self.fleet.new_id()

    def instance(self, project: str, name: str) -> Instance:
        """Raises Refused. Its data are what the guest has written until now."""
        if project not in self.projects:
            raise Refused(404, "Project not found")
        found = self.instances.get((project, name))
        if found is None:
            raise Refused(404, "Instance not found")
        found.settle_writes(self.clock.now())
        return found

    def volume(self, project: str, pool: str, name: str) -> Volume:
        """A custom volume. Raises Refused. Its data are what those who attach it have written until now."""
        if pool not in self.pools:
            raise Refused(404, "Storage pool not found")
        found = self.pools[pool].volumes.get((project, name))
        if found is None:
            raise Refused(404, "Storage volume not found")
        self.settle(found)
        return found

    def volumes_of(self, instance: Instance) -> list[Volume]:
        """The custom volumes that an instance attaches."""
        keys = [
            (device["pool"], device.get("source", ""))
            for device in records.expanded(self, instance)[1].values()
            if device.get("pool") in self.pools and device.get("path") != "/"
        ]
        found = [self.pools[pool].volumes.get((instance.project, name)) for pool, name in sorted(set(keys))]
        return [each for each in found if each is not None]

    def settle(self, volume: Volume) -> None:
        """Whoever attaches it and runs has written into it as often as into its own root disk."""
        for instance in self.instances.values():
            if (
                instance.status == "Running"
                and instance.data is not None
                and any(each is volume for each in self.volumes_of(instance))
            ):
                instance.settle_writes(self.clock.now())
                if volume.data is not None:
                    volume.data = replace(volume.data, version=max(volume.data.version, instance.data.version))

    def note_volume(self, kind: str, volume: Volume, **more: str) -> None:
        """Write about a custom volume into the history, under ``POOL/NAME``."""
        data, name = volume.data, f"{volume.pool}/{volume.name}"
        detail = {"token": data.token if data else "", "marks": dict(volume.config), **more}
        self.history.append(
            Entry(self.clock.now(), self.name, kind, name, volume.project, data.generation if data else "", detail)
        )

    def expanded_config(self, instance: Instance) -> dict[str, str]:
        """Its config with that of its profiles."""
        return records.expanded(self, instance)[0]

    def add_project(self, name: str, **config: str) -> None:
        """A project, with an empty default profile if it has profiles of its own."""
        self.projects[name] = {"features.profiles": "true", **config}
        if self.projects[name]["features.profiles"] == "true":
            self.profiles[name, "default"] = Profile("default", name)

    def profile(self, project: str, name: str) -> Profile | None:
        """A profile as instances of this project use it."""
        return self.profiles.get((self.profiles_of(project), name))

    def profiles_of(self, project: str) -> str:
        """The project whose profiles a project uses."""
        own = self.projects.get(project, {}).get("features.profiles", "true") == "true"
        return project if own else "default"

    def adopt(self, instance: Instance, *, runs: bool) -> None:
        """Have an instance that was always there, running or stopped."""
        instance.location = self.location
        devices = records.expanded(self, instance)[1]
        validation.fill_volatile(self, instance, devices)
        instance.config |= {
            "volatile.last_state.power": "RUNNING" if runs else "STOPPED",
            "volatile.idmap.current": states.IDMAP,
            "volatile.last_state.idmap": states.IDMAP,
        }
        self.instances[instance.project, instance.name] = instance
        self.note("created", instance, config=dict(instance.config), devices=sorted(devices))
        if runs:
            now = self.clock.now()
            instance.status, instance.last_used_at, instance.wrote_at = "Running", now, now
            self.note("started", instance, token=instance.data.token if instance.data else "")

    def note(self, kind: str, instance: Instance | None = None, **detail: Any) -> None:
        """Write into the history."""
        name, project = (instance.name, instance.project) if instance else ("", "")
        data: Data | None = instance.data if instance else None
        if instance is not None and kind in ("started", "stopped"):
            detail["volumes"] = {v.name: v.data.token if v.data else "" for v in self.volumes_of(instance)}
        self.history.append(
            Entry(self.clock.now(), self.name, kind, name, project, data.generation if data else "", detail)
        )

    def later(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Do something unless the daemon dies before; a frozen one does it when it is thawed."""
        pid = self.pid

        def fire() -> None:
            if not self.is_up or self.pid != pid:
                return
            if self.is_frozen:
                self._frozen_timers.append(fire)
            else:
                act()

        return self.clock.call_in(seconds, fire)

    def work(self, seconds: float, act: Callable[[], None]) -> None:
        """``later``, for what uses the CPU: slower when more is going on than there are processors."""
        self.working += 1
        slower = max(1.0, self.working / self.cpus)
        pid = self.pid

        def end() -> None:
            if self.pid == pid:
                self.working -= 1

        self.clock.call_in(seconds * slower, end)
        self.later(seconds * slower, act)

    def thawed(self) -> None:
        """Run what came due while the daemon was frozen."""
        waiting, self._frozen_timers = self._frozen_timers, []
        for act in waiting:
            act()
