"""`python no_vsock.py PROGRAM NAME ARGUMENTS...`: become a program for which this kernel seems to have vhost-vsock.

Incus opens /dev/vhost-vsock before it starts a virtual machine, and listens for agents at the address of the host, and
without either it does not begin. Two of its calls are answered here, by seccomp; all others go on to the kernel:

* The `ioctl` that gives a machine its address succeeds, and does nothing. The filter itself says so.
* `bind` to the address of the host is done to any address instead: by a helper beside the program, because a filter
  cannot see what is behind a pointer. The helper ends with the program and all that it has started.

Go programs call the kernel themselves, so that no library could stand in.
"""

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

SECCOMP, PIDFD_GETFD, BIND, IOCTL = 317, 438, 49, 16  # of x86_64
SET_GUEST_ADDRESS = 0x4008AF60
SET_FILTER, LISTENER_THAT_SIGNALS_LEAVE_ALONE = 1, (1 << 3) | (1 << 5)
ALLOW, SUCCEED, ASK = 0x7FFF0000, 0x00050000, 0x7FC00000
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
#: Where a filter finds what it asks for of a call; of an argument, its lower half.
NUMBER, SECOND_ARGUMENT, THIRD_ARGUMENT = 0, 24, 32
RECEIVE, SEND = 0xC0502100, 0xC0182101
GO_ON = 1
#: As far as seccomp tells of a call: number, process, its flags, system call, architecture, where, six arguments.
CALL, ANSWER = "=QIIiIQ6Q", "=QqiI"
#: Family, reserved, port, address, flags.
ADDRESS = "=HHII4s"
HOST = 2

libc = ctypes.CDLL(None, use_errno=True)


def install_filter() -> int:
    """From now on the calls are answered, of this process and of all that it starts; what reads the questions."""
    code = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (LOAD, 0, 0, NUMBER),
            (IF_EQUAL, 0, 2, BIND),
            (LOAD, 0, 0, THIRD_ARGUMENT),
            (IF_EQUAL, 3, 4, struct.calcsize(ADDRESS)),
            (IF_EQUAL, 0, 3, IOCTL),
            (LOAD, 0, 0, SECOND_ARGUMENT),
            (IF_EQUAL, 2, 1, SET_GUEST_ADDRESS),
            (RETURN, 0, 0, ASK),
            (RETURN, 0, 0, ALLOW),
            (RETURN, 0, 0, SUCCEED),
        )
    )
    instructions = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    return called(libc.syscall(SECCOMP, SET_FILTER, LISTENER_THAT_SIGNALS_LEAVE_ALONE, program))


def answer(listener: int) -> None:
    """Answer until nobody is left who could ask."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while poll.poll()[0][1] & select.POLLIN:
        call = bytearray(struct.calcsize(CALL))
        with suppress(FileNotFoundError):  # who has asked is gone
            fcntl.ioctl(listener, RECEIVE, call)
            asked, task, _, _, _, _, descriptor, where, *_ = struct.unpack(CALL, call)
            reply = struct.pack(ANSWER, asked, 0, *bound(task, descriptor, where))
            fcntl.ioctl(listener, SEND, bytearray(reply))


def bound(task: int, descriptor: int, where: int) -> tuple[int, int]:
    """The error and the flags of the answer to a `bind`."""
    with Path(f"/proc/{task}/mem").open("rb", buffering=0) as memory:
        memory.seek(where)
        family, _, port, address, _ = struct.unpack(ADDRESS, memory.read(struct.calcsize(ADDRESS)))
    if (family, address) != (socket.AF_VSOCK, HOST):
        return 0, GO_ON
    status = Path(f"/proc/{task}/status").read_text()
    process = os.pidfd_open(int(status.partition("Tgid:")[2].split()[0]))
    try:
        with socket.socket(fileno=called(libc.syscall(PIDFD_GETFD, process, descriptor, 0))) as ours:
            ours.bind((socket.VMADDR_CID_ANY, port))
    except OSError as error:
        return -(error.errno or 0), 0
    finally:
        os.close(process)
    return 0, 0


def called(result: int) -> int:
    """What a system call has returned. Raises OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def main(program: str, name: str, *arguments: str) -> None:
    """Start the helper, then become the program."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        os.setsid()
        theirs.close()
        _, (listener, *_), _, _ = socket.recv_fds(ours, 1, 1)
        ours.close()
        answer(listener)
        return
    listener = install_filter()
    socket.send_fds(theirs, [b"."], [listener])
    os.close(listener)
    os.execv(program, [name, *arguments])  # noqa: S606 - what a shell could do is not wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
