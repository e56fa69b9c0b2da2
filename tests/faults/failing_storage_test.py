"""A storage that fails for a moment, or for good, costs a message: nothing is lost or wrong.

Each change of files that a training, a prepare and an export make fails in turn. Then the same
command runs once more and must end as one never disturbed.
"""

import json
import random
import re
import shutil

import pytest

from tests import classifier, commands

ENDS = {"train": {0, 74}, "prepare": {0, 3, 74}, "export": {0, 74}}
PATCHES = {"trainer.durable.RETRY_PAUSES": [0.0] * 4}
NEVER = 10**9


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{command: (what it makes, its arguments without that, its answer, how many changes)}."""
    folder = tmp_path_factory.mktemp("made")
    classifier.write_csv(folder / "train.csv", classifier.sentences(60, seed=1))
    classifier.write_csv(folder / "validation.csv", classifier.sentences(30, seed=2))
    requests = {
        "prepare": (
            "data_dir",
            [
                f"--raw_data={folder / 'train.csv'}",
                f"--validation_data={folder / 'validation.csv'}",
            ],
        ),
        "train": (
            "model_dir",
            [
                f"--data_dir={folder / 'prepare' / 'place'}",
                *("--units=4", "--embedding_size=3", "--max_length=8", "--batch_size=20"),
                *("--steps=6", "--eval_steps=3", "--save_steps=3", "--keep=1", "--jit=off"),
                *("--threads=2", "--shards=1"),
            ],
        ),
        "export": ("export_dir", [f"--model_dir={folder / 'train' / 'place'}"]),
    }
    made = {}
    for command, (flag, arguments) in requests.items():
        (folder / command).mkdir()
        place = folder / command / "place"
        answer = run(command, flag, arguments, place, NEVER, NEVER, "EIO")
        assert answer.code == 0, answer.err
        changes = int(re.search(r"changes of files: (\d+)", answer.err)[1])
        made[command] = (flag, arguments, place, answer, changes)
    return made


def run(command, flag, arguments, place, first, last, error) -> commands.Answer:
    """Runs a command while changes `first` to `last` - 1 of what lies beside `place` fail."""
    return commands.call(
        command,
        f"--{flag}={place}",
        *arguments,
        patches=PATCHES,
        fail=(str(place.parent), first, last, error),
    )


def result_of(command, place) -> object:
    """Returns what must be equal however often the storage failed."""
    if command == "train":
        newest = max(path for path in (place / "checkpoints").glob("step-????????"))
        best = [path for path in (place / "best").glob("step-????????")]
        manifests = [json.loads((path / "MANIFEST.json").read_text()) for path in (newest, *best)]
        states = [manifest["state_digest"] for manifest in manifests]
        return newest.name, states, (place / "evaluations.jsonl").read_text()
    if command == "prepare":
        return {path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    # The proof of an export has compared what its files answer.
    return {path.relative_to(place) for path in place.rglob("*")}


def check(made, command, tmp_path, first, last, error) -> None:
    """Lets some changes of one command fail, and runs it again."""
    flag, arguments, before, undisturbed, _ = made[command]
    place = tmp_path / f"{first}-{error}" / "place"
    place.parent.mkdir()
    about = f"{command}, changes {first} to {last - 1} with {error}"
    answer = run(command, flag, arguments, place, first, last, error)
    about = f"{about}: {answer.code}\n{answer.out}\n{answer.err}"
    assert answer.code in ENDS[command], about
    assert "Traceback" not in answer.err, about
    if answer.code:
        assert str(place.parent) in answer.err, about
        assert not (command != "train" and place.exists()), about
    again = commands.call(command, f"--{flag}={place}", *arguments)
    if command == "train" or answer.code:
        assert again.code == 0, f"{about}\nagain: {again.err}"
    assert result_of(command, place) == result_of(command, before), about
    if command == "train":
        assert again.lines[-1] == undisturbed.lines[-1], about
    left = [path.name for path in place.parent.iterdir() if path != place]
    assert not left, f"{about}\nleft behind: {left}"
    shutil.rmtree(place.parent)


@pytest.mark.parametrize("command", ["prepare", "train"])
@pytest.mark.parametrize("disk", ["fails once", "is full from then on"])
def test_a_change_that_fails_costs_a_message_and_nothing_else(made, command, disk, tmp_path):
    chance = random.Random(f"{command} {disk}")
    for first in chance.sample(range(made[command][-1]), 2 if command == "train" else 1):
        once = disk == "fails once"
        check(
            made,
            command,
            tmp_path,
            first,
            first + 1 if once else NEVER,
            "EIO" if once else "ENOSPC",
        )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prepare", "train", "export"])
def test_each_change_may_fail_once(made, command, tmp_path):
    for first in range(made[command][-1]):
        check(made, command, tmp_path, first, first + 1, "EIO")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prepare", "train", "export"])
def test_the_disk_may_be_full_from_each_change_on(made, command, tmp_path):
    for first in range(made[command][-1]):
        check(made, command, tmp_path, first, NEVER, "ENOSPC")
