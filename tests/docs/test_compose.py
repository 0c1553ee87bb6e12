"""compose.yaml and Dockerfile say what exists: services, commands, settings, files. No container engine is needed."""

import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml

from common.config import Settings
from tests.docs.commands import complaint
from tests.docs.pages import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_services_are_those_that_the_how_to_names() -> None:
    """`workers` and `redis` come up by themselves; the one-shot `herder` only when it is asked for."""
    assert set(SERVICES) == {"redis", "workers", "scheduler", "herder"}
    assert SERVICES["herder"]["profiles"] == ["cli"]
    assert SERVICES["scheduler"]["profiles"] == ["backup"]
    assert "profiles" not in SERVICES["workers"]


@pytest.mark.parametrize("name", ["workers", "scheduler"])
def test_what_runs_all_the_time_is_a_command_of_herder_and_is_started_again(name: str) -> None:
    """Exit status 75 of a worker asks for it."""
    assert complaint(shlex.split(SERVICES[name]["command"])) == ""
    assert SERVICES[name]["restart"] == "always"


@pytest.mark.parametrize("name", ["workers", "scheduler", "herder"])
def test_every_variable_is_a_setting(name: str) -> None:
    """Both sides use the same Redis, and the server list that is mounted, read-only."""
    service = SERVICES[name]
    environment = service["environment"]
    settings = {f"HERDER_{setting.upper()}" for setting in Settings.model_fields}
    assert {key for key in environment if key.startswith("HERDER_")} <= settings
    assert environment["HERDER_REDIS_URL"] == "redis://redis:6379/0"
    assert [volume for volume in service["volumes"] if volume.endswith(f":{environment['LXD_CONF']}:ro")]


@pytest.mark.parametrize("name", ["workers", "herder"])
def test_a_service_waits_for_a_healthy_redis(name: str) -> None:
    """Which therefore has a health check."""
    assert SERVICES[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert SERVICES["redis"]["healthcheck"]["test"]


def test_redis_keeps_what_it_is_told_and_evicts_nothing() -> None:
    """As `herder doctor` wants it."""
    words = SERVICES["redis"]["command"].split()
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    (data,) = SERVICES["redis"]["volumes"]
    assert data.partition(":")[0] in COMPOSE["volumes"]


def test_the_image_is_built_from_files_that_exist() -> None:
    """With all that the wheel needs, on a Python that herder supports."""
    copied = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], project["project"]["readme"]}
    assert needed <= set(copied)
    version = re.search(r"^FROM python:(\d+\.\d+)", DOCKERFILE, re.MULTILINE)
    assert version
    assert f"Programming Language :: Python :: {version[1]}" in project["project"]["classifiers"]
