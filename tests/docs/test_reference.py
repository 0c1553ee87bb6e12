"""What the code has, the reference names; what the reference names, the code has."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from common.config import Settings
from common.domain import eligibility, machine
from common.domain.itinerary import ITINERARIES
from common.domain.job import JobError, State
from common.domain.plan import Finding, Move, Plan, Refusal
from common.store.keys import Keys
from producer import failing_over, placement, planfile, policyfile
from producer.cli import exits
from producer.report import JobReport, RefusalReport, Report, SetAsideReport, Totals
from tests.docs import generate
from tests.docs.pages import DOCS, ROOT, all_blocks, first_cells, inline_code, pages

REFERENCE, EXPLANATION = DOCS / "reference", DOCS / "explanation"


@pytest.mark.parametrize("page", generate.REGIONS, ids=lambda page: page.name)
def test_generated_tables_are_up_to_date(page: Path) -> None:
    """Otherwise: `python -m tests.docs.generate`."""
    assert page.read_text() == generate.filled(page)


@pytest.mark.parametrize("written", ["--config KEY=VALUE", "-y", "--to TARGET:", "--no-wait", "[SOURCE:]INSTANCE..."])
def test_the_generator_sees_what_a_person_sees_in_the_help(written: str) -> None:
    """A generator that read the command group wrongly would leave the same gap in the page and in the test."""
    assert f"`{written}`" in generate.commands()


def test_every_exit_status_is_in_the_table() -> None:
    """The constants that commands leave with, and the sentences that their help prints, are the same."""
    used = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert {int(code) for code in first_cells(REFERENCE / "cli.md", "Exit status")} == used


def test_every_kind_of_error_is_in_the_table() -> None:
    """Two errors with one code could not be told apart in a report."""
    codes = [kind.code for kind in generate.error_classes()]
    assert len(codes) == len(set(codes))
    assert {*codes, "bug", "redis"} == set(first_cells(REFERENCE / "errors.md", "Codes"))


def _refusal_codes() -> set[str]:
    """The codes with which planning and preflight refuse, as the sources spell them."""
    calls = [
        node
        for module in (eligibility, placement, failing_over)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"_refuse", "Finding"}
    ]
    given = [call.args[0] if call.args else next(k.value for k in call.keywords if k.arg == "code") for call in calls]
    of_machines = {criterion.code for criterion in machine.CRITERIA}
    return {str(value.value) for value in given if isinstance(value, ast.Constant)} | of_machines


def test_every_refusal_is_in_the_table() -> None:
    """A person who reads a code in a plan file finds it explained, and no code that never comes."""
    assert _refusal_codes() == set(first_cells(REFERENCE / "errors.md", "Refusals"))


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        (Report, "The whole"),
        (Totals, "Totals"),
        (JobReport, "Jobs"),
        (RefusalReport, "Refused"),
        (SetAsideReport, "Set aside"),
        (JobError, "Errors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_key_of_the_report_is_in_its_table(kind: Any, heading: str) -> None:
    """`herder report --json` prints these keys and no others."""
    assert first_cells(REFERENCE / "report.md", heading) == [field.name for field in fields(kind)]


def test_every_state_of_a_job_is_in_the_table() -> None:
    """A report says these words and no others."""
    assert first_cells(REFERENCE / "report.md", "States of a job") == list(State)


def _keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        nested = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_model(kind)]
        if nested:
            by_instance = "INSTANCE." if get_origin(field.annotation) is dict else ""
            yield from _keys_of(nested[0], f"{prefix}{name}.{by_instance}")
        else:
            yield f"{prefix}{name}"


def _is_model(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, BaseModel)


def test_every_key_of_a_request_file_is_in_the_table() -> None:
    """In the order in which the code declares them."""
    assert first_cells(REFERENCE / "plan-file.md", "Keys of a request") == list(_keys_of(planfile._RequestFile))


def test_every_key_of_a_policy_file_is_in_the_table() -> None:
    keys = [key.removeprefix("policies.") for key in _keys_of(policyfile._PolicyFile)]
    assert first_cells(REFERENCE / "policy-file.md", "Keys of a policy") == keys


@pytest.mark.parametrize(
    ("kind", "heading"),
    [(Plan, "Keys of a plan"), (Move, "A move"), (Refusal, "A refusal"), (Finding, "A finding")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_key_of_a_plan_file_is_in_its_table(kind: Any, heading: str) -> None:
    """`herder plan --output` and `herder plan --json` write these keys and no others."""
    assert first_cells(REFERENCE / "plan-file.md", heading) == [field.name for field in fields(kind)]


def _prefix(key: str) -> str:
    return ":".join(key.split(":")[:2])


def _keys_in_python() -> set[str]:
    schema = Keys("NS")
    found = set()
    for name, member in vars(Keys).items():
        if isinstance(member, property):
            found.add(getattr(schema, name))
        elif inspect.isfunction(member) and not name.startswith("_"):
            arguments = len(inspect.signature(member).parameters) - 1
            found.add(getattr(schema, name)(*["X"] * arguments))
    return {_prefix(key) for key in found if key.startswith("NS:")}


def _keys_in_lua() -> set[str]:
    scripts = "".join(path.read_text() for path in (ROOT / "common" / "store" / "lua").glob("*.lua"))
    return {f"NS:{name}" for name in re.findall(r"NS \.\. ':([a-z]+)", scripts)}


def test_every_redis_key_is_in_the_table() -> None:
    """Those that Python names and those that the scripts build, and none that nobody uses."""
    listed = {_prefix(key) for key in first_cells(REFERENCE / "redis-keys.md", "Keys")}
    assert listed == _keys_in_python() | _keys_in_lua()


def test_every_step_is_explained() -> None:
    """In the order of the itineraries."""
    steps = list(dict.fromkeys(step.name for itinerary in ITINERARIES.values() for step in itinerary.steps))
    page = EXPLANATION / "how-a-move-survives.md"
    backups = EXPLANATION / "how-a-backup-survives.md"
    told = [
        step
        for heading in ("Steps", "Into an archive", "Drills", "Failovers")
        for step in first_cells(backups, heading)
    ]
    told += [
        step
        for heading in (
            *("Preflight", "Transfer", "Cutover", "Cleanup"),
            *("The refresh of a copy", "A volume by itself", "The way back"),
        )
        for step in first_cells(page, heading)
    ]
    assert sorted(told) == sorted(steps)


def test_every_import_contract_is_explained() -> None:
    """By the name that `lint-imports` prints."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    text = (EXPLANATION / "architecture.md").read_text()
    assert [each["name"] for each in contracts if each["name"] not in text] == []


def test_the_change_log_knows_this_version() -> None:
    """Its newest numbered heading is the version that `herder --version` prints."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    numbered = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert numbered[0] == version


def test_every_variable_that_is_named_exists() -> None:
    """A variable that nothing reads is ignored without a word."""
    known = {f"HERDER_{name.upper()}" for name in Settings.model_fields}
    known |= {"HERDER_CONFIG", "HERDER_LAB", "HERDER_LAB_PORT", "HERDER_LAB_PRODUCT"}
    named = {name for page in pages() for name in re.findall(r"HERDER_[A-Z_]*[A-Z]", page.read_text())}
    assert named - known == set()


def test_every_file_that_is_named_exists() -> None:
    """Inline code that looks like a path of the checkout is one."""
    path = re.compile(r"(?:common|producer|workers|tests|docs)/[\w./-]+")
    named = {code for page in pages() for code in inline_code(page) if path.fullmatch(code)}
    assert [code for code in sorted(named) if not (ROOT / code).exists()] == []


def test_every_block_of_code_says_what_it_is() -> None:
    """So that no command or example escapes its test by having no language."""
    known = {"sh", "console", "text", "yaml", "toml", "json", "mermaid", "lua", "python"}
    assert [str(block) for block in all_blocks() if block.language not in known] == []
