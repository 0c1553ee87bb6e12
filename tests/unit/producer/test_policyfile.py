"""Policy files: what they say, and what is wrong with them, with its place."""

from datetime import timedelta
from pathlib import Path

import pytest

from common.domain.errors import PlanFileError
from common.domain.plan import Compression
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
        pytest.param("target: s3", "target: s4", "policies.0.drill.target: s4 is no remote of", id="no target"),
        pytest.param("when: weekly", "when: wekly", ":11:13: policies.0.drill.schedule: 'wekly'", id="a wrong drill"),
        pytest.param("rpo: 26h", "rop: 26h", ":8:5: policies.0.rop: there is no such key", id="a typo"),
        pytest.param("30 2 * * *", "30 25 * * *", ":4:5: policies.0.schedule: '30 25", id="a wrong time"),
        pytest.param("Europe/Berlin", "Europe/Berlim", "there is no time zone 'Europe/Berlim'", id="a wrong zone"),
        pytest.param(
            "{remote: s3}", "{storage: slow}", ":7:9: policies.0.targets.1: a target is either", id="no place"
        ),
        pytest.param("name: nightly", "name: Nightly!", ":2:5: policies.0.name", id="a name that no snapshot can have"),
        pytest.param("daily: 7", "daily: -1", ":6:65: policies.0.targets.0.keep.daily", id="a negative number"),
        pytest.param("policies:", "policy:", "there is no such key", id="no policies"),
        pytest.param("{remote: s3}", "{remote: s3, archive: /srv}", ":7:9: policies.0.targets.1: a target", id="two"),
        pytest.param("{remote: s3}", "{remote: s2}", ":7:9: policies.0.targets.1: s2 is a target of", id="the same"),
        pytest.param("{remote: s3}", "{archive: srv}", ":7:10: policies.0.targets.1.archive: 'srv' is no", id="cwd"),
        pytest.param("{remote: s3}", "{archive: 'ftp://h/x'}", "'ftp://h/x' is no archive", id="no archive"),
        pytest.param("{remote: s3}", "{archive: /srv, storage: slow}", "storage is no key of an archive", id="a pool"),
        pytest.param("{remote: s3}", "{remote: s3, compression: gzip}", "compression is no key of a remote", id="gzip"),
        pytest.param("{remote: s3}", "{archive: /srv}", ":9:5: policies.0.hook: a hook is for remotes or", id="hook"),
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


def with_archive(text: str) -> str:
    text = text.replace("{remote: s3}", "{archive: 's3://vault/night/', compression: zstd, keep: {last: 3}}")
    return text.replace("    hook: {before: [fsfreeze -f /srv], after: [fsfreeze -u /srv]}\n", "")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param("target: s3", "target: 's3://vault/night'", "s3://vault/night is no remote of", id="an archive"),
        pytest.param(
            '{remote: "s2:", project: backups, storage: slow,', "{archive: /srv,", "no target is a", id="none"
        ),
    ],
)
def test_what_is_in_an_archive_is_not_drilled(file: Path, old: str, new: str, words: str) -> None:
    text = with_archive(FILE).replace(old, new)
    file.write_text(text if "no target" not in words else text.replace(", target: s3", ""))
    with pytest.raises(PlanFileError, match=f"policies.0.drill.target: {words}"):
        read_policies(file)


def test_a_target_may_be_an_archive_and_knows_its_line(file: Path) -> None:
    """Errors that show only when it is used name that."""
    file.write_text(with_archive(FILE).replace(", target: s3", ""))
    (policy,) = read_policies(file)
    assert policy.drill_target == "s2"
    remote, archive = policy.targets
    assert (remote.place, remote.written) == ("s2", f"{file}:6:10")
    assert (archive.place, archive.written) == ("s3://vault/night", f"{file}:7:10")
    assert (archive.compression, archive.keep) == (Compression.ZSTD, Retention(last=3))


def test_an_archive_takes_a_hook_if_no_remote_is_a_target_too(file: Path) -> None:
    """A file and a generation are made of snapshots of their own, and so of quiet times of their own."""
    hooked = FILE.replace("{remote: s3}", "{archive: /srv}").replace(", target: s3", "")
    file.write_text(hooked)
    with pytest.raises(PlanFileError, match=r"policies\.0\.hook: a hook is for remotes or for archives"):
        read_policies(file)
    lines = [line for line in hooked.splitlines() if "remote" not in line and "drill" not in line]
    file.write_text("\n".join(lines))
    (policy,) = read_policies(file)
    assert ([each.place for each in policy.targets], policy.hook.after) == (["/srv"], ("fsfreeze -u /srv",))
