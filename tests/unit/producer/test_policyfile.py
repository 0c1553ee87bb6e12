"""Policy files: what they say, and what is wrong with them, with its place."""

from datetime import timedelta
from pathlib import Path

import pytest

from common.domain.errors import PlanFileError
from common.domain.retention import Retention
from producer.policyfile import read_all, read_policies

FILE = """\
policies:
  - name: nightly
    select: {source: "s1:", match: {user.tier: "web*"}}
    schedule: {when: "30 2 * * *", zone: Europe/Berlin, jitter: 10m, window: 4h}
    targets:
      - {remote: "s2:", project: backups, storage: slow, keep: {daily: 7, weekly: 4}}
      - {remote: s3}
    rpo: 26h
    hook: {before: [fsfreeze -f /srv], after: [fsfreeze -u /srv]}
    limits: {per_target: 1}
    drill: {schedule: {when: weekly}, command: [systemctl, is-system-running], target: s3, max_age: 40d}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "policies.yaml"
    found.write_text(FILE)
    return found


def test_a_policy_says_what_when_whither_and_how_long(file: Path) -> None:
    (policy,) = read_policies(file)
    assert (policy.name, policy.select.source, policy.select.match) == ("nightly", "s1", {"user.tier": "web*"})
    assert (policy.schedule.zone, policy.schedule.jitter) == ("Europe/Berlin", timedelta(minutes=10))
    assert [target.remote for target in policy.targets] == ["s2", "s3"]
    assert [target.keep for target in policy.targets] == [Retention(daily=7, weekly=4), Retention()]
    assert (policy.keep, policy.rpo, policy.limits.per_target) == (Retention(last=3), timedelta(hours=26), 1)
    assert policy.hook.before == ("fsfreeze -f /srv",)
    assert policy.drill is not None
    assert (policy.drill.command, policy.drill_target) == (("systemctl", "is-system-running"), "s3")
    assert (policy.drill.timeout, policy.drill.max_age) == (timedelta(minutes=5), timedelta(days=40))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param("target: s3", "target: s4", "policies.0.drill.target: it is none of the targets", id="no target"),
        pytest.param("when: weekly", "when: wekly", ":11:13: policies.0.drill.schedule: 'wekly'", id="a wrong drill"),
        pytest.param("rpo: 26h", "rop: 26h", ":8:5: policies.0.rop: there is no such key", id="a typo"),
        pytest.param("30 2 * * *", "30 25 * * *", ":4:5: policies.0.schedule: '30 25", id="a wrong time"),
        pytest.param("Europe/Berlin", "Europe/Berlim", "there is no time zone 'Europe/Berlim'", id="a wrong zone"),
        pytest.param(
            "{remote: s3}", "{storage: slow}", ":7:9: policies.0.targets.1.remote: is missing", id="no remote"
        ),
        pytest.param("name: nightly", "name: Nightly!", ":2:5: policies.0.name", id="a name that no snapshot can have"),
        pytest.param("daily: 7", "daily: -1", ":6:65: policies.0.targets.0.keep.daily", id="a negative number"),
        pytest.param("policies:", "policy:", "there is no such key", id="no policies"),
    ],
)
def test_a_mistake_is_told_with_its_place(file: Path, old: str, new: str, words: str) -> None:
    file.write_text(FILE.replace(old, new))
    with pytest.raises(PlanFileError) as wrong:
        read_policies(file)
    assert str(file) in str(wrong.value)
    assert words in str(wrong.value)


def test_a_name_is_given_once_in_a_file_and_in_all(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(FILE)
    with pytest.raises(PlanFileError, match="policy nightly is in"):
        read_all([file, other])
    other.write_text(FILE + FILE.removeprefix("policies:\n"))
    with pytest.raises(PlanFileError, match=r"other.yaml:12:5: policies.1.name: another policy has it"):
        read_policies(other)
