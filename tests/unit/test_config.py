"""Settings: the environment over the file over the defaults, and errors that name the place."""

from pathlib import Path

import pytest

from common.config import Settings, config_file, load_settings
from common.domain.errors import InputError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No settings but those of the test; the directory that the test is in."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"HERDER_{name.upper()}", raising=False)
    monkeypatch.delenv("HERDER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of_loading() -> InputError:
    """What is said about settings that are wrong."""
    with pytest.raises(InputError) as raised:
        load_settings()
    return raised.value


def test_without_anything_there_are_defaults(tmp_path: Path) -> None:
    """Single-machine mode, with its data in the user's state directory."""
    settings = load_settings()
    assert (settings.redis_url, settings.namespace) == ("", "herder")
    assert settings.state_dir == tmp_path / "state" / "herder"
    assert config_file() is None


def test_the_file_in_the_working_directory_counts(tmp_path: Path) -> None:
    """It is named herder.toml."""
    (tmp_path / "herder.toml").write_text("threads = 3\n")
    assert load_settings().threads == 3


def test_a_variable_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the file says besides still counts."""
    (tmp_path / "herder.toml").write_text("threads = 3\nworkers = 2\n")
    monkeypatch.setenv("HERDER_THREADS", "5")
    settings = load_settings()
    assert (settings.threads, settings.workers) == (5, 2)


def test_an_argument_wins_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `herder worker --redis`."""
    monkeypatch.setenv("HERDER_REDIS_URL", "redis://a")
    assert load_settings(redis_url="redis://b").redis_url == "redis://b"


def test_the_named_file_wins_over_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Then the working directory's, then the user's."""
    users = tmp_path / "config" / "herder" / "herder.toml"
    users.parent.mkdir(parents=True)
    users.write_text("threads = 1\n")
    assert load_settings().threads == 1
    (tmp_path / "herder.toml").write_text("threads = 2\n")
    assert load_settings().threads == 2
    named = tmp_path / "other.toml"
    named.write_text("threads = 3\n")
    monkeypatch.setenv("HERDER_CONFIG", str(named))
    assert load_settings().threads == 3


@pytest.mark.parametrize("name", ["nowhere.toml", "."], ids=["missing", "a directory"])
def test_a_named_file_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Who names a file wants it to count."""
    monkeypatch.setenv("HERDER_CONFIG", str(tmp_path / name))
    error = error_of_loading()
    assert "HERDER_CONFIG" in error.message
    assert str(tmp_path / name) in error.message


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable, not the file that has a good value."""
    (tmp_path / "herder.toml").write_text("threads = 3\n")
    monkeypatch.setenv("HERDER_THREADS", "many")
    error = error_of_loading()
    assert error.message.startswith("HERDER_THREADS: threads: ")
    assert error.hint == "see docs/reference/settings.md"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("threads = 0", "threads: Input should be greater than or equal to 1"),
        ('log_level = "LOUD"', "log_level: String should match pattern"),
        ("thread = 3", "thread: Extra inputs are not permitted"),
        ('namespace = ""', "namespace: String should have at least 1 character"),
        ("read_timeout = -1", "read_timeout: Input should be greater than 0"),
    ],
)
def test_a_wrong_value_in_the_file_is_named_with_the_file(tmp_path: Path, line: str, said: str) -> None:
    """And a key that there is not, too."""
    (tmp_path / "herder.toml").write_text(line + "\n")
    error = error_of_loading()
    assert error.message.startswith("herder.toml: ")
    assert said in error.message


def test_a_file_that_is_not_toml_is_named_with_the_line(tmp_path: Path) -> None:
    """As the TOML parser tells it."""
    (tmp_path / "herder.toml").write_text("threads = 3\nworkers: 2\n")
    error = error_of_loading()
    assert error.message.startswith("herder.toml: ")
    assert "line 2" in error.message


def test_every_setting_is_described() -> None:
    """The reference page is checked against the descriptions."""
    assert not [name for name, field in Settings.model_fields.items() if not field.description]
