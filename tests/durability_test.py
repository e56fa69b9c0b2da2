"""Nothing that the program publishes is lost with the power: held against its system calls.

`strace` records what `prepare`, `train` and `export` ask of the kernel. Each result (checkpoint,
best checkpoint, configuration, evaluations, dataset, export) must follow one order: write, sync
the content, rename, sync the parent. A folder on the way to it must have a durable name as well.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests import classifier, commands

# The calls that write to the file of their first descriptor.
WRITES = {"write", "pwrite64", "writev", "pwritev", "sendfile", "ftruncate"}
SYNCS = {"fsync", "fdatasync"}
RENAMES = {"rename", "renameat", "renameat2"}
REMOVALS = {"unlink", "unlinkat", "rmdir"}
TRACED = {*WRITES, *SYNCS, *RENAMES, *REMOVALS, "openat", "mkdir", "mkdirat"}
STRACE = ["strace", "-f", "-y", "-s", "0", "-e", "signal=none", "-e", f"trace={','.join(TRACED)}"]

# {result: its name below the folder of this test}
RESULTS = {
    "dataset": r"new/data",
    "configuration": r"model/config\.json",
    "evaluations": r"model/evaluations\.jsonl",
    "best checkpoint": r"model/best/step-\d{8}",
    "checkpoint": r"model/checkpoints/step-\d{8}",
    "export": r"export",
}


@functools.cache
def strace_works() -> bool:
    return (
        bool(shutil.which("strace"))
        and not subprocess.run([*STRACE, "-o", os.devnull, "true"], capture_output=True).returncode
    )


@dataclasses.dataclass(frozen=True)
class Call:
    """A system call that succeeded. `paths`: what it concerns, absolute."""

    thread: str
    name: str
    paths: tuple[str, ...]


def calls_of(log: str) -> list[Call]:
    """Returns the calls in a log of strace that change something, in an order on the safe side.

    A sync counts from the moment it returns, everything else from the moment it begins.
    """
    found, unfinished = [], {}
    for line in log.splitlines():
        thread, text = re.fullmatch(r"(\d+) +(.*)", line).groups()
        if text.endswith("<unfinished ...>"):
            unfinished[thread] = len(found), text.removesuffix("<unfinished ...>")
            found.append(None)
            continue
        place = len(found)
        if resumed := re.fullmatch(r"<\.\.\. \w+ resumed>(.*)", text):
            place, begin = unfinished.pop(thread)
            text = begin + resumed[1]
        call = _parsed(thread, text)
        if place == len(found) or (call and call.name in SYNCS):
            found.append(call)
        else:
            found[place] = call
    return [call for call in found if call]


def _parsed(thread: str, text: str) -> Call | None:
    """Returns the call of one line; None if it failed, or changes nothing."""
    matched = re.fullmatch(r"(\w+)\((.*)\) += (\d+).*", text)
    if not matched or (matched[1] == "openat" and "O_CREAT" not in matched[2]):
        return None
    name, arguments = matched[1], matched[2]
    # An argument is a descriptor with its path, or a path; a path may follow its folder's.
    paths, folder = [], ""
    for of_descriptor, given in re.findall(r'\w+<([^>]*)>|"([^"]*)"', arguments):
        if of_descriptor and (name in WRITES or name in SYNCS):
            paths.append(of_descriptor)
        folder = of_descriptor or folder
        if given:
            paths.append(os.path.join(folder, given))
    return Call(thread, name, tuple(paths)) if paths else None


@dataclasses.dataclass(frozen=True)
class Publication:
    """A rename. `written`: the files that got their content before it, by their final names;
    `lost`: what a loss of power at this moment would take; `next`: the thread's next call.
    """

    target: str
    written: set[str]
    lost: set[str]
    next: Call | None


def publications(calls: list[Call]) -> list[Publication]:
    """Replays `calls` on a disk that forgets what was not synced; returns all renames."""
    contents, names, written, found = set(), set(), set(), []
    for number, call in enumerate(calls):
        path = call.paths[0]
        if call.name in WRITES:
            contents.add(path)
            written.add(path)
        elif call.name in SYNCS:
            contents.discard(path)
            names = {name for name in names if os.path.dirname(name) != path}
        elif call.name in REMOVALS:
            contents, names, written = (
                {other for other in known if not _is_in(other, path)}
                for known in (contents, names, written)
            )
        elif call.name in RENAMES:
            target = call.paths[1]
            contents, names, written = (
                _moved(known, path, target) for known in (contents, names, written)
            )
            names.discard(target)
            found.append(
                Publication(
                    target,
                    {other for other in written if _is_in(other, target)},
                    {other for other in contents | names if _is_in(other, target)}
                    | {name for name in names if _is_in(target, name)},
                    next(
                        (later for later in calls[number + 1 :] if later.thread == call.thread),
                        None,
                    ),
                )
            )
            names.add(target)
        else:  # A new file or folder.
            names.add(path)
    return found


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _moved(known: set[str], source: str, target: str) -> set[str]:
    kept = {path for path in known if not _is_in(path, target) or _is_in(path, source)}
    return {target + path.removeprefix(source) if _is_in(path, source) else path for path in kept}


def problems(publication: Publication) -> list[str]:
    """Returns what is wrong with a rename that gives a result its name."""
    found = [f"{path} was not synced before the rename" for path in sorted(publication.lost)]
    if not publication.written:
        found.append("nothing was written")
    parent = os.path.dirname(publication.target)
    if not (after := publication.next) or after.name not in SYNCS or after.paths != (parent,):
        found.append(f"{parent} was not synced after the rename, next is {after}")
    return found


# --- the check itself -----------------------------------------------------------------------------

RIGHT = """\
7 mkdir("/m/checkpoints", 0777) = 0
7 fsync(4</m>) = 0
7 mkdir("/m/checkpoints/1.tmp", 0777) = 0
7 openat(AT_FDCWD</>, "/m/checkpoints/1.tmp/part", O_WRONLY|O_CREAT, 0666) = 5
7 write(5</m/checkpoints/1.tmp/part>, ""..., 9) = 9
7 rename("/m/checkpoints/1.tmp/part", "/m/checkpoints/1.tmp/tensors") = 0
7 fsync(5</m/checkpoints/1.tmp/tensors> <unfinished ...>
8 write(6</m/journal>, ""..., 9) = 9
7 <... fsync resumed>) = 0
7 fsync(5</m/checkpoints/1.tmp>) = 0
7 rename("/m/checkpoints/1.tmp", "/m/checkpoints/1") = 0
8 fsync(6</m/journal>) = 0
7 fsync(5</m/checkpoints>) = 0
"""


def test_the_check_accepts_the_right_order():
    [_, publication] = publications(calls_of(RIGHT))
    assert publication.target == "/m/checkpoints/1"
    assert publication.written == {"/m/checkpoints/1/tensors"}
    assert problems(publication) == []


@pytest.mark.parametrize(
    "path, problem",
    [
        ("/m>", "/m/checkpoints was not synced before"),
        ("tensors>", "/m/checkpoints/1/tensors was not synced before"),
        ("1.tmp>", "/m/checkpoints/1/tensors was not synced before"),
        ("checkpoints>", "/m/checkpoints was not synced after"),
    ],
)
def test_the_check_finds_each_sync_that_is_missing(path, problem):
    cut = [
        line.replace("fsync(", "fstat(") if f"{path})" in line or f"{path} <" in line else line
        for line in RIGHT.replace(
            "... fsync", "... fstat" if path == "tensors>" else "... fsync"
        ).splitlines()
    ]
    found = problems(publications(calls_of("\n".join(cut)))[-1])
    assert found and found[0].startswith(problem)


def test_the_check_finds_a_sync_that_returns_too_late():
    lines = RIGHT.splitlines()
    lines.insert(11, lines.pop(8))
    found = problems(publications(calls_of("\n".join(lines)))[-1])
    assert "/m/checkpoints/1/tensors was not synced before the rename" in found


# --- the program ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(folder, renames of `prepare`, `train` and `export` in it)."""
    if not strace_works():
        pytest.skip("strace is not installed, or may not trace processes here")
    folder = tmp_path_factory.mktemp("durable")
    classifier.write_csv(folder / "train.csv", classifier.sentences(60, seed=1))
    classifier.write_csv(folder / "validation.csv", classifier.sentences(30, seed=2))
    data, model = folder / "new" / "data", folder / "model"
    requests = [
        [
            "prepare",
            f"--raw_data={folder / 'train.csv'}",
            f"--validation_data={folder / 'validation.csv'}",
            f"--data_dir={data}",
        ],
        [
            "train",
            f"--data_dir={data}",
            f"--model_dir={model}",
            "--units=4",
            "--embedding_size=3",
            "--max_length=8",
            "--padding=pre",
            "--batch_size=20",
            "--steps=6",
            "--eval_steps=3",
            "--save_steps=3",
            "--jit=off",
            "--threads=2",
            "--shards=1",
        ],
        ["export", f"--model_dir={model}", f"--export_dir={folder / 'export'}"],
    ]
    # One process for all of them: TensorFlow is imported once.
    done = subprocess.run(
        [*STRACE, "-o", str(folder / "log"), sys.executable, "-m", "tests.commands"],
        cwd=commands.PROJECT,
        input="".join(
            json.dumps({"arguments": words, "stdin": "", "patches": {}, "record": []}) + "\n"
            for words in requests
        ),
        capture_output=True,
        text=True,
        timeout=commands.SECONDS,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["code"] for answer in answers] == [0, 0, 0], answers
    log = (folder / "log").read_text(errors="replace")
    return folder, publications([call for call in calls_of(log) if str(folder) in call.paths[0]])


@pytest.mark.parametrize("result", RESULTS)
def test_a_result_is_written_then_synced_then_renamed_then_its_parent_is_synced(result, published):
    folder, renames = published
    named = re.compile(f"{re.escape(str(folder))}/{RESULTS[result]}")
    found = [publication for publication in renames if named.fullmatch(publication.target)]
    assert found
    for publication in found:
        assert problems(publication) == [], publication.target


def test_every_file_of_a_checkpoint_is_seen(published):
    """Otherwise the test above would hold nothing."""
    folder, renames = published
    seen = {pathlib.Path(path) for publication in renames for path in publication.written}
    there = set(folder.glob("model/checkpoints/*/*"))
    assert len(there) == 6 and there <= seen
