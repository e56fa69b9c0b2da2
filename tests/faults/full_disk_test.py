"""A disk that is really full, for Python and for TensorFlow's own files, costs a message only.

Each command writes to a small file system in memory, which is full at ten moments: a prepare and an
export get ten sizes up to what they need. A training run, which does not begin on a small disk,
gets a larger one that something else fills. Then there is space, and the same command must end as
one never disturbed.
"""

import contextlib
import mmap
import os
import pathlib
import shutil
import subprocess
import time

import pytest

from tests import commands
from tests.faults import failing_storage_test
from tests.faults.failing_storage_test import result_of

made = failing_storage_test.made

MOMENTS = 10
ENOUGH = 1 << 28
WANTED = 110 << 20  # Bytes without which a training run does not begin.
INSIDE = ("nsenter", "--user", "--mount", "--preserve-credentials")
MOUNT = 'mount -t tmpfs -o size="$1" none "$2" && echo mounted && exec cat'


class SmallDisk:
    """A file system in memory that only processes started through `prefix` see."""

    def __init__(self, folder: pathlib.Path, size: int):
        folder.mkdir()
        self.folder = folder
        self._holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(size), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if not self._holder.stdout.readline():
            pytest.skip(f"no file system can be mounted here: {self._holder.communicate()[1]}")
        self.prefix = (*INSIDE, f"--target={self._holder.pid}")
        self.seen = pathlib.Path(f"/proc/{self._holder.pid}/root{folder}")
        self._filler = self.seen / "filler"

    def fill(self) -> None:
        """Takes all the space that is left."""
        about = os.statvfs(self.seen)
        if about.f_bavail:
            with open(self._filler, "ab") as filler, contextlib.suppress(OSError):
                taken = about.f_bavail * about.f_frsize
                os.posix_fallocate(filler.fileno(), filler.tell(), taken)

    def free(self) -> None:
        """Makes room for anything."""
        self._filler.unlink(missing_ok=True)
        grown = ("mount", "-o", f"remount,size={ENOUGH}", self.folder)
        subprocess.run([*self.prefix, *grown], check=True)

    def used(self) -> int:
        """Returns how many bytes are taken."""
        about = os.statvfs(self.seen)
        return (about.f_blocks - about.f_bfree) * about.f_frsize

    def __enter__(self) -> "SmallDisk":
        return self

    def __exit__(self, *problem) -> None:
        self._holder.kill()
        self._holder.communicate()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nsenter") is None, reason="needs nsenter of util-linux"),
]


@pytest.mark.parametrize("command", ["prepare", "train", "export"])
def test_a_disk_that_is_full_at_any_moment_costs_a_message(made, command, tmp_path):
    flag, arguments, _, _, _ = made[command]
    if command == "train":  # With weights that take more than a block of the disk.
        arguments = [word for word in arguments if not word.startswith("--units")]
        arguments += ["--units=64"]
    with SmallDisk(tmp_path / "large", ENOUGH) as disk:
        empty = needed = disk.used()
        process = start(disk, command, flag, arguments)
        while process.poll() is None:
            needed = max(needed, disk.used() - empty)
            time.sleep(0.002)
        undisturbed = commands.finish(process)
        assert undisturbed.code == 0, undisturbed.err
        expected = result_of(command, disk.seen / "place")
    codes = []
    for moment in range(1, MOMENTS + 1):
        size = -(-needed * moment // (MOMENTS + 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        room = needed + WANTED if command == "train" else size
        with SmallDisk(tmp_path / str(moment), empty + room) as disk:
            process = start(disk, command, flag, arguments)
            while command == "train" and process.poll() is None:
                if disk.used() >= empty + size:
                    disk.fill()
                time.sleep(0.001)
            answer = commands.finish(process)
            about = f"{command} with {size} of {needed} bytes: {answer.code}\n{answer.err}"
            print(about)
            codes.append(answer.code)
            assert answer.code in (0, 74), about
            assert "Traceback" not in answer.err, about
            if answer.code:
                error = answer.err[answer.err.rindex("error: ") :]
                assert str(disk.folder) in error and "free" in error.lower(), about
                left = [
                    path.name
                    for path in disk.seen.iterdir()
                    if path.name not in ("place", "filler")
                ]
                assert not left, f"{about}\nleft behind: {left}"
            disk.free()
            again = commands.finish(start(disk, command, flag, arguments))
            assert again.code == 0, f"{about}\nagain: {again.err}"
            assert result_of(command, disk.seen / "place") == expected, about
            if command == "train":
                assert again.lines[-1] == undisturbed.lines[-1], about
    assert 74 in codes


def start(disk, command, flag, arguments) -> subprocess.Popen:
    """Starts a command that makes `place` on the disk."""
    return commands.start(
        command, f"--{flag}={disk.folder / 'place'}", *arguments, prefix=disk.prefix
    )
