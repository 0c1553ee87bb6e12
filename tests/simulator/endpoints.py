"""The small ones: the server itself, operations, projects, networks, certificates, commands in guests."""

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulator.certificates import Identity
from tests.simulator.http import Json, Refused, Request, Response, answer, begun, created
from tests.simulator.router import router

if TYPE_CHECKING:
    from tests.simulator.server import Server

_EXIT = re.compile(r'exit "?(\$?\w+)"?$')


@cache
def extensions() -> list[str]:
    """What LXD 5.0.2 says it knows."""
    return Path(__file__).with_name("extensions.txt").read_text().split()


@router.on("GET", "")
def get_server(server: "Server", request: Request) -> Response:
    """Answered to strangers too, but not all of it."""
    record: Json = {
        "api_extensions": extensions(),
        "api_status": "stable",
        "api_version": "1.0",
        "auth": "trusted" if server.trusts(request.client) else "untrusted",
        "auth_methods": ["tls"],
        "public": False,
    }
    if server.trusts(request.client):
        record["config"] = {"core.https_address": server.address.removeprefix("https://")}
        record["environment"] = _environment(server)
    return answer(record, etag=str(server.pid))


def _environment(server: "Server") -> Json:
    return {
        "addresses": [server.address.removeprefix("https://")],
        "architectures": ["x86_64", "i686"],
        "certificate": server.identity.certificate,
        "certificate_fingerprint": server.identity.fingerprint,
        "driver": "lxc",
        "driver_version": "5.0.2",
        "kernel": "Linux",
        "project": "default",
        "server": server.product,
        "server_clustered": server.location != "none",
        "server_name": server.name,
        "server_pid": server.pid,
        "server_version": server.version,
        "storage": "btrfs",
        "storage_supported_drivers": [],
    }


@router.on("GET", "operations")
def list_operations(server: "Server", request: Request) -> Response:
    """Of one project, grouped by status."""
    groups: dict[str, list[object]] = {}
    for each in server.operations.of_project(request.project):
        record = each.record()
        shown = record if request.is_recursive else f"/1.0/operations/{each.id}"
        groups.setdefault(str(record["status"]).lower(), []).append(shown)
    return answer(groups)


@router.on("GET", "operations/*")
@router.on("GET", "operations/*/wait")
def get_operation(server: "Server", _request: Request, operation: str) -> Response:
    """Also the end of a wait: the door has let the time pass."""
    return answer(server.operations.get(operation).record())


@router.on("DELETE", "operations/*")
def cancel_operation(server: "Server", _request: Request, operation: str) -> Response:
    server.operations.cancel(operation)
    return answer({})


@router.on("GET", "projects")
def list_projects(server: "Server", request: Request) -> Response:
    """Those that the client may see."""
    seen = [name for name in server.projects if server.may_see(request.client, name)]
    if request.is_recursive:
        return answer([_project(server, name) for name in seen])
    return answer([f"/1.0/projects/{name}" for name in seen])


@router.on("POST", "projects")
def create_project(server: "Server", request: Request) -> Response:
    """One with profiles of its own, if not said otherwise, gets an empty default profile."""
    name = str(request.json.get("name") or "")
    if name in server.projects:
        raise Refused(409, f'Error inserting "{name}" into database: The project already exists')
    server.add_project(name, **(request.json.get("config") or {}))
    return created(f"/1.0/projects/{name}")


@router.on("GET", "projects/*")
def get_project(server: "Server", _request: Request, name: str) -> Response:
    if name not in server.projects:
        raise Refused(404, "Project not found")
    return answer(_project(server, name))


@router.on("DELETE", "projects/*")
def delete_project(server: "Server", _request: Request, name: str) -> Response:
    if any(instance.project == name for instance in server.instances.values()):
        raise Refused(400, "Only empty projects can be removed")
    server.projects.pop(name, None)
    for key in [key for key in server.profiles if key[0] == name]:
        del server.profiles[key]
    return answer({})


def _project(server: "Server", name: str) -> Json:
    return {"name": name, "description": "", "config": server.projects[name], "used_by": []}


@router.on("GET", "networks")
def list_networks(server: "Server", request: Request) -> Response:
    if request.project not in server.projects:
        raise Refused(404, "Project not found")
    names = sorted(server.networks.get(request.project) or server.networks["default"])
    if request.is_recursive:
        return answer([{"name": name, "type": "bridge", "managed": True, "config": {}} for name in names])
    return answer([f"/1.0/networks/{name}" for name in names])


@router.on("POST", "networks")
def create_network(server: "Server", request: Request) -> Response:
    name = str(request.json.get("name") or "")
    server.networks.setdefault(request.project, set()).add(name)
    return created(f"/1.0/networks/{name}")


@router.on("GET", "certificates")
def list_certificates(server: "Server", _request: Request) -> Response:
    return answer([f"/1.0/certificates/{each}" for each in server.trusted])


@router.on("POST", "certificates")
def trust(server: "Server", request: Request) -> Response:
    """A token for a client to come, a certificate that a trusted client brings, or a stranger with a token."""
    body = request.json
    projects = frozenset(body.get("projects") or ()) if body.get("restricted") else None
    if server.trusts(request.client):
        if body.get("token"):
            return _token(server, request, projects)
        pem = f"-----BEGIN CERTIFICATE-----\n{body.get('certificate')}\n-----END CERTIFICATE-----\n"
        fingerprint = Identity(pem).fingerprint
    else:
        projects, fingerprint = _redeemed(server, str(body.get("password") or "")), request.client
    server.trusted[fingerprint] = projects
    return created(f"/1.0/certificates/{fingerprint}")


@router.on("DELETE", "certificates/*")
def distrust(server: "Server", _request: Request, fingerprint: str) -> Response:
    if server.trusted.pop(fingerprint, "unknown") == "unknown":
        raise Refused(404, "Certificate not found")
    return answer({})


def _token(server: "Server", request: Request, projects: frozenset[str] | None) -> Response:
    secret = server.fleet.new_secret()
    metadata: Json = {
        "addresses": [server.address.removeprefix("https://")],
        "fingerprint": server.identity.fingerprint,
        "request": dict(request.json),
        "secret": secret,
    }
    operation = server.operations.begin("Executing operation", "default", kind="token", metadata=metadata)
    operation.on_cancel = lambda: None
    server.tokens[secret] = projects
    return begun(operation.record())


def _redeemed(server: "Server", password: str) -> frozenset[str] | None:
    """Which projects a token opens, None for all. Raises Refused."""
    try:
        secret = json.loads(base64.b64decode(password))["secret"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(403, "not authorized") from error
    if secret not in server.tokens:
        raise Refused(403, "No matching certificate add operation found")
    return server.tokens.pop(secret)


@router.on("POST", "instances/*/exec")
def execute(server: "Server", request: Request, name: str) -> Response:
    """The few commands that the guests know: ``true``, ``false``, and a shell's lines with ``exit``; of others, 127."""
    instance = server.instance(request.project, name)
    if instance.status != "Running":
        raise Refused(400, "Instance is not running")
    operation = server.operations.begin("Executing command", request.project, name, metadata={})
    command = [str(word) for word in request.json.get("command") or ()]
    code = _exit_code(command, request.json.get("environment") or {})

    def done() -> None:
        operation.metadata = {"return": code}
        server.note("executed", instance, command=command)
        server.operations.end(operation)

    server.later(0.05, done)
    return begun(operation.record())


def _exit_code(command: list[str], environment: Json) -> int:
    known = {"true": 0, "sync": 0, "false": 1}
    if command[:1] and command[0] in known:
        return known[command[0]]
    is_shell = command[:1] == ["sh"] and command[1:2] in (["-c"], ["-ec"])
    found = _EXIT.search(command[2]) if is_shell and len(command) > 2 else None
    if found is None:
        return 0 if is_shell else 127
    word = found[1]
    return int(environment.get(word[1:], 0)) if word.startswith("$") else int(word)
