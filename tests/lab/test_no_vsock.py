"""What a program finds that believes in vhost-vsock, and that nothing of it is left when the program has ended."""

import subprocess
import sys

import pytest

from tests.lab import host, no_vsock

pytestmark = pytest.mark.lab

PROGRAM = """
import fcntl, socket
listening = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listening.bind((2, 12345))
listening.listen()
print(listening.getsockname())
other = socket.socket()
other.bind(("127.0.0.1", 0))
print(other.getsockname()[0])
with open("/dev/null", "r+b") as device:
    fcntl.ioctl(device, 0x4008AF60, bytes(8))
    try:
        fcntl.ioctl(device, 0x4008AF61, bytes(8))
    except OSError as error:
        print(error.strerror)
"""


def test_a_program_listens_at_the_address_of_the_host_and_all_other_calls_are_as_ever() -> None:
    """It listens at any address, because this kernel has none of a host."""
    command = [sys.executable, no_vsock.__file__, sys.executable, "a-name", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(4294967295, 12345)", "127.0.0.1", "Inappropriate ioctl for device"]
    host.wait_until("the helper to end", lambda: not [p for p in host.processes() if " a-name -c" in p.command])
