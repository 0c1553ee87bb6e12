"""``/1.0/profiles``. A change is saved even when an instance that uses the profile refuses it."""

from typing import TYPE_CHECKING, Any

from tests.simulator import records, validation
from tests.simulator.http import Refused, Request, Response, answer, created
from tests.simulator.model import Devices, Instance, Profile
from tests.simulator.router import router

if TYPE_CHECKING:
    from tests.simulator.server import Server


@router.on("GET", "profiles")
def list_profiles(server: "Server", request: Request) -> Response:
    project = server.profiles_of(_known(server, request.project))
    found = [profile for (owner, _), profile in server.profiles.items() if owner == project]
    if request.is_recursive:
        return answer([records.profile_record(server, each) for each in found])
    return answer([f"/1.0/profiles/{each.name}" for each in found])


@router.on("POST", "profiles")
def create_profile(server: "Server", request: Request) -> Response:
    """Raises Refused for a name that is taken."""
    project = server.profiles_of(_known(server, request.project))
    body = request.json
    name = str(body.get("name") or "")
    if not name:
        raise Refused(400, "No name provided")
    if (project, name) in server.profiles:
        raise Refused(500, f'Error inserting "{name}" into database: The profile already exists')
    profile = Profile(name, project)
    _check(server, project, body)
    _take(profile, body)
    server.profiles[project, name] = profile
    server.note("profile-created", profile=name, profile_project=project)
    server.events.tell_lifecycle("profile-created", project, f"profiles/{name}")
    return created(f"/1.0/profiles/{name}")


@router.on("GET", "profiles/*")
def get_profile(server: "Server", request: Request, name: str) -> Response:
    profile = _find(server, request, name)
    return answer(records.profile_record(server, profile), etag=records.profile_etag(profile))


@router.on("PUT", "profiles/*")
def replace_profile(server: "Server", request: Request, name: str) -> Response:
    return _change(server, request, _find(server, request, name), request.json)


@router.on("PATCH", "profiles/*")
def patch_profile(server: "Server", request: Request, name: str) -> Response:
    profile, body = _find(server, request, name), request.json
    merged = {
        "description": body.get("description", profile.description),
        "config": {**profile.config, **(body.get("config") or {})},
        "devices": {**profile.devices, **(body.get("devices") or {})},
    }
    return _change(server, request, profile, merged)


@router.on("DELETE", "profiles/*")
def delete_profile(server: "Server", request: Request, name: str) -> Response:
    """Raises Refused for one that is used."""
    profile = _find(server, request, name)
    if name == "default":
        raise Refused(403, 'The "default" profile cannot be deleted')
    if records.users_of(server, profile):
        raise Refused(500, "Profile is currently in use")
    del server.profiles[profile.project, name]
    server.note("profile-deleted", profile=name, profile_project=profile.project)
    server.events.tell_lifecycle("profile-deleted", profile.project, f"profiles/{name}")
    return answer({})


def _change(server: "Server", request: Request, profile: Profile, body: dict[str, Any]) -> Response:
    check_etag(request, records.profile_etag(profile))
    _check(server, profile.project, body)
    users = records.users_of(server, profile)
    before = {id(instance): records.expanded(server, instance)[1] for instance in users}
    _take(profile, body)
    server.note(
        "profile-changed",
        profile=profile.name,
        profile_project=profile.project,
        config=dict(profile.config),
        devices=sorted(profile.devices),
    )
    failed = [(instance, _refusal(server, instance, before[id(instance)])) for instance in users]
    lines = [
        f" - Project: {instance.project}, Instance: {instance.name}: {problem}\n"
        for instance, problem in failed
        if problem
    ]
    if lines:
        text = "The following instances failed to update (profile change still saved):\n"
        raise Refused(500, text + "".join(lines))
    server.events.tell_lifecycle("profile-updated", profile.project, f"profiles/{profile.name}")
    return answer({})


def _refusal(server: "Server", instance: Instance, before: Devices) -> str:
    """Why a user of the profile refuses the change, ``""`` if it does not."""
    if instance.busy:
        return f'Failed to create instance update operation: Instance is busy running a "{instance.busy}" operation'
    after = records.expanded(server, instance)[1]
    validation.fill_addresses(server, instance.config, after)
    if instance.is_unusable:
        return backup_missing(instance)
    return validation.unpluggable(server, validation.added(before, after)) if instance.is_alive else ""


def backup_missing(instance: Instance) -> str:
    """What a change of a copy that is not complete is answered."""
    file = f"/containers/{instance.name}/backup.yaml"
    return f'Failed to write backup file: Failed to create file "{file}": open {file}: no such file or directory'


def check_etag(request: Request, now: str) -> None:
    """Raises Refused if the request was made for another state."""
    sent = request.headers.get("if-match", "").strip('"')
    if sent and sent != now:
        raise Refused(412, f"ETag doesn't match: {now} vs {sent}")


def _check(server: "Server", project: str, body: dict[str, Any]) -> None:
    validation.check_config(body.get("config") or {})
    validation.check_devices(server, project, body.get("devices") or {})


def _take(profile: Profile, body: dict[str, Any]) -> None:
    profile.description = str(body.get("description") or "")
    profile.config = {key: value for key, value in (body.get("config") or {}).items() if value != ""}
    profile.devices = {name: dict(device) for name, device in (body.get("devices") or {}).items()}


def _find(server: "Server", request: Request, name: str) -> Profile:
    found = server.profile(_known(server, request.project), name)
    if found is None:
        raise Refused(404, "Fetch profile: Profile not found")
    return found


def _known(server: "Server", project: str) -> str:
    if project not in server.projects:
        raise Refused(404, "Project not found")
    return project
