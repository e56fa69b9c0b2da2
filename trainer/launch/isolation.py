"""A network of its own for the workers of a local gang: a loopback device and nothing else.

TensorFlow's gRPC server listens on every address of its network, whatever address it is given, asks
for no password, and reads and writes files as the user who trains. It cannot be told to do
otherwise. In a network without any way in, "every address" is reachable from its workers alone.

Linux makes such a network (network_namespaces(7)) for root, and for any user who may make a user
namespace (user_namespaces(7)). `python -m trainer.launch.isolation` makes one and holds it while
its standard input is open.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys

from trainer.exit_codes import UsageError

_NEWUSER, _NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h
_HOLDER = ("-m", "trainer.launch.isolation")
_KINDS = (("user", _NEWUSER), ("net", _NEWNET))  # In the order in which they must be entered.


class Network:
    """A new network without a way in, as a context manager that lets go of it at its end.

    It lasts as long as a process is in it.
    """

    def __init__(self):
        """Raises UsageError if this machine does not let the user make one."""
        self._kinds: list[tuple[int, int]] = []  # (descriptor, kind) of each namespace to enter
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._open()
        except OSError as problem:
            self.close()
            raise UsageError(
                "--local_network=own: this machine does not let us make a network of our own "
                f"({problem.strerror or problem}), and TensorFlow's server listens on every "
                "address of the machine: who reaches it reads and writes files as you. Allow user "
                "namespaces (Docker: --security-opt=seccomp=unconfined; Ubuntu: sysctl "
                "kernel.apparmor_restrict_unprivileged_userns=0), or keep strangers away from this "
                "machine and use --local_network=host."
            ) from None

    def enter(self) -> None:
        """Moves this process, which has one thread, into the network; for a `preexec_fn`.

        It clears the signal that `processes.tied_to` asks for, so tie afterwards.
        """
        for descriptor, kind in self._kinds:
            if self._libc.setns(descriptor, kind):
                raise OSError(ctypes.get_errno(), "setns")

    def close(self) -> None:
        """Lets go of the network."""
        while self._kinds:
            os.close(self._kinds.pop()[0])

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _open(self) -> None:
        with subprocess.Popen(
            [sys.executable, *_HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in our terminal is not for it.
        ) as holder:
            answer = holder.stdout.readline().split()
            if not answer or not answer[0].isdigit():
                raise OSError(0, "the process that makes it ended")
            number, *made = answer
            if int(number):
                raise OSError(int(number), os.strerror(int(number)))
            for name, kind in _KINDS:
                if name in made:
                    path = f"/proc/{holder.pid}/ns/{name}"
                    self._kinds.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind))


def _make() -> list[str]:
    """Moves this process into a new network with loopback up; returns the namespaces it made.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    made = ["net"]
    if not hasattr(libc, "unshare"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc.unshare(_NEWNET):
        if libc.unshare(_NEWUSER | _NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        made = ["user", "net"]
        # The user keeps its number, and so the right to its files.
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(content)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    return made


if __name__ == "__main__":
    try:
        print(0, *_make(), flush=True)
    except OSError as problem:
        print(problem.errno or errno.EIO, flush=True)
    sys.stdin.read()
