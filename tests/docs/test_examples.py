"""Every example file in the documentation is one that herder reads."""

from pathlib import Path

import pytest
import yaml

from common.config import Settings, load_settings
from common.domain.errors import PlanFileError
from producer.planfile import read_plan, read_request
from producer.policyfile import read_policies
from tests.docs.pages import ROOT, Block, all_blocks
from tests.simulator.served import Served


def _top_level(block: Block) -> set[str]:
    content = yaml.safe_load(block.text)
    return set(content) if isinstance(content, dict) else set()


REQUESTS = [block for block in all_blocks("yaml") if "select" in _top_level(block)]
PLANS = [block for block in all_blocks("yaml") if "moves" in _top_level(block)]
FLEETS = [block for block in all_blocks("yaml") if "servers" in _top_level(block)]
POLICIES = [block for block in all_blocks("yaml") if "policies" in _top_level(block)]
OTHERS = [block for block in all_blocks("yaml") if not _top_level(block) & {"select", "moves", "servers", "policies"}]


@pytest.mark.parametrize("block", REQUESTS, ids=str)
def test_a_request_file_is_understood(block: Block, tmp_path: Path) -> None:
    """By the reader that `herder plan FILE` uses."""
    file = tmp_path / "request.yaml"
    file.write_text(block.text)
    assert read_request(file).targets


@pytest.mark.parametrize("block", POLICIES, ids=str)
def test_a_policy_file_is_understood(block: Block, tmp_path: Path) -> None:
    """By the reader that `herder scheduler FILE` uses."""
    file = tmp_path / "policies.yaml"
    file.write_text(block.text)
    assert read_policies(file)


@pytest.mark.parametrize("block", PLANS, ids=str)
def test_a_plan_file_is_understood(block: Block, tmp_path: Path) -> None:
    """By the reader that `herder run FILE` uses."""
    file = tmp_path / "plan.yaml"
    file.write_text(block.text)
    assert read_plan(file).moves


@pytest.mark.parametrize("block", FLEETS, ids=str)
def test_a_fleet_file_is_understood(block: Block, tmp_path: Path) -> None:
    """By the simulator."""
    file = tmp_path / "fleet.yaml"
    file.write_text(block.text)
    with Served.from_file(file, tmp_path / "lxc") as served:
        assert any(server.instances for server in served.fleet.servers.values())


def test_no_other_yaml_pretends_to_be_a_plan() -> None:
    """What is left are parts of compose.yaml."""
    assert [str(block) for block in OTHERS if not _top_level(block) <= {"services", "volumes", "x-herder"}] == []


def test_a_wrong_example_is_noticed(tmp_path: Path) -> None:
    """The reader refuses a key that does not exist."""
    file = tmp_path / "request.yaml"
    file.write_text(REQUESTS[0].text + "\ndowntime: 2s\n")
    with pytest.raises(PlanFileError, match="downtime: there is no such key"):
        read_request(file)


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_a_settings_file_is_understood(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the reader that every command uses, without the help of variables."""
    file = tmp_path / "herder.toml"
    file.write_text(block.text)
    for name in load_settings().model_dump():
        monkeypatch.delenv(f"HERDER_{name.upper()}", raising=False)
    monkeypatch.setenv("HERDER_CONFIG", str(file))
    assert load_settings() != Settings.model_construct(), f"{block} changes nothing"


def test_the_documentation_has_examples() -> None:
    """Tests without parameters pass without a word."""
    assert REQUESTS
    assert PLANS
    assert all_blocks("toml")
    assert (ROOT / "compose.yaml").exists()
