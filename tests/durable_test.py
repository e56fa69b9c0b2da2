"""The order of calls that makes a name durable, and the content that a reader finds in between."""

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


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_sha256_is_that_of_the_whole_content(size, tmp_path):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(content)
    assert durable.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
