"""The order of calls that makes a name durable, and the content that a reader finds in between."""

import errno
import hashlib
import os
import pathlib

import pytest

from trainer import durable


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The calls of fsync and replace, in their order: ("sync", name) and ("rename", from, to)."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def name(path) -> str:
        return os.path.relpath(path, tmp_path)

    def on_fsync(descriptor):
        seen.append(("sync", name(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def on_replace(source, target):
        seen.append(("rename", name(source), name(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", on_fsync)
    monkeypatch.setattr(os, "replace", on_replace)
    return seen


@pytest.mark.skipif(not pathlib.Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
class TestOrder:
    def test_a_file_is_synced_before_its_name_and_its_name_before_the_call_returns(
        self, calls, tmp_path
    ):
        durable.replace_file(tmp_path / "config.json", b"{}")
        assert calls == [
            ("sync", "config.json.tmp"),
            ("rename", "config.json.tmp", "config.json"),
            ("sync", "."),
        ]

    def test_a_folder_is_published_after_everything_in_it(self, calls, tmp_path):
        (tmp_path / "new" / "part").mkdir(parents=True)
        (tmp_path / "new" / "part" / "file").write_bytes(b"1")
        durable.publish(tmp_path / "new", tmp_path / "there")
        *synced, renamed, parent = calls
        assert sorted(synced) == [("sync", "new"), ("sync", "new/part"), ("sync", "new/part/file")]
        assert synced[-1] == ("sync", "new")
        assert (renamed, parent) == (("rename", "new", "there"), ("sync", "."))

    def test_the_parent_of_every_new_folder_is_synced(self, calls, tmp_path):
        durable.make_folder(tmp_path / "model" / "checkpoints")
        assert calls == [("sync", "."), ("sync", "model")]

    def test_an_existing_folder_needs_no_sync(self, calls, tmp_path):
        durable.make_folder(tmp_path)
        assert calls == []


@pytest.mark.parametrize("moment", ["while it is made", "while it is filled"])
def test_a_temporary_folder_is_removed_whenever_ctrl_c_comes(moment, tmp_path, monkeypatch):
    mkdir = pathlib.Path.mkdir

    def interrupted(path, *arguments, **options):
        mkdir(path, *arguments, **options)
        raise KeyboardInterrupt

    if moment == "while it is made":
        monkeypatch.setattr(pathlib.Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with durable.temporary_folder(tmp_path / "data") as folder:
            (folder / "part").write_bytes(b"1")
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_published_folder_stays_and_others_may_read_it(tmp_path):
    umask = os.umask(0o022)
    try:
        with durable.temporary_folder(tmp_path / "data") as folder:
            (folder / "part").write_bytes(b"1")
            durable.publish(folder, tmp_path / "data")
    finally:
        os.umask(umask)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch, pauses):
    def full(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_folder_with_content_is_never_replaced(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_bytes(b"1")
    with pytest.raises(OSError):
        durable.publish(tmp_path / "new", tmp_path / "there")
    assert (tmp_path / "there" / "mine").exists()


def test_a_name_that_cannot_be_made_durable_is_taken_back(tmp_path, monkeypatch):
    sync = durable.sync

    def failing_for_the_parent(path):
        if path == tmp_path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(path)

    monkeypatch.setattr(durable, "sync", failing_for_the_parent)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "part").write_bytes(b"1")
    with pytest.raises(OSError, match="Input/output"):
        durable.publish(tmp_path / "new", tmp_path / "there")
    with pytest.raises(OSError, match="Input/output"):
        durable.make_folder(tmp_path / "model" / "checkpoints")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new" / "part").read_bytes() == b"1"

    replace, turns = os.replace, iter([True])

    def failing_the_second_time(source, target):
        if not next(turns, False):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing_the_second_time)
    with pytest.raises(OSError, match="Input/output"):
        durable.publish(tmp_path / "new", tmp_path / "there")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_sha256_is_that_of_the_whole_content(size, tmp_path):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(content)
    assert durable.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# --- storage that fails for a moment, and places that cannot be used ------------------------------


def failing(*numbers):
    """An action that raises an OSError of each number, then returns "written"."""
    left = list(numbers)

    def action():
        if left:
            raise OSError(number := left.pop(0), os.strerror(number))
        return "written"

    return action


@pytest.fixture
def pauses(monkeypatch):
    taken = []
    monkeypatch.setattr(durable.time, "sleep", taken.append)
    return taken


def test_a_failure_of_the_moment_is_tried_again(pauses):
    assert durable.retried("x", failing(errno.EIO, errno.ESTALE, errno.ENOSPC)) == "written"
    assert pauses == [0.5, 1.0, 2.0]


def test_the_first_failure_is_told_and_a_refusal_at_once(pauses):
    with pytest.raises(OSError) as raised:
        durable.retried("x", failing(errno.ENOSPC, *[errno.EIO] * 9))
    assert raised.value.errno == errno.ENOSPC and len(pauses) == 4
    with pytest.raises(OSError) as raised:
        durable.retried("x", failing(errno.ENOSPC, errno.EACCES))
    assert raised.value.errno == errno.ENOSPC and len(pauses) == 5
    with pytest.raises(OSError) as raised:
        durable.retried("x", failing(errno.EACCES))
    assert raised.value.errno == errno.EACCES and len(pauses) == 5


def test_anything_but_a_file_is_an_error_at_once_and_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"content")
    assert durable.read_bytes(tmp_path / "file") == b"content"
    for name in ("pipe", "folder", "loop", "nowhere", "x" * 300):
        with pytest.raises(OSError) as raised:
            durable.read_bytes(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)


def test_a_name_that_no_folder_can_be_renamed_to_is_known(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "lost").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path / "empty")
    assert durable.why_not_replaced(tmp_path / "new") == ""
    assert durable.why_not_replaced(tmp_path) == ""
    assert durable.why_not_replaced(pathlib.Path(".")) == "the current folder"
    assert durable.why_not_replaced(tmp_path / "empty") == "the current folder"
    assert durable.why_not_replaced(tmp_path / "link") == "a symbolic link"
    assert durable.why_not_replaced(tmp_path / "lost") == "a symbolic link"
    assert durable.why_not_replaced(pathlib.Path("/proc")) == "a mount point"


def test_a_file_of_a_block_that_fails_is_gone_and_names_itself(tmp_path, pauses):
    with pytest.raises(OSError) as raised, durable.replacing(tmp_path / "out.csv") as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(tmp_path / "out.csv") in str(raised.value)
    assert list(tmp_path.iterdir()) == []
