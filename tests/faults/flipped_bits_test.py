"""Flips bits of the small files of a run: the same answer, or an error that names the file.

The readers run in this process, so that each flip costs a fraction of a millisecond. By default a
seeded sample of the bits is flipped, with `--slow` every one of them.
"""

import hashlib
import json
import pathlib
import random
import shutil

import pytest

from tests import classifier, commands
from trainer import resuming, sealed
from trainer.data import excerpt, store
from trainer.exit_codes import DataError
from trainer.flags import run as configuration
from trainer.model_folder import attempts, commits, lock, selection
from trainer.model_folder.journal import Journal

MADE_BEFORE = pathlib.Path(__file__).parents[1] / "data" / "made_before"
CONFIG = {"units": (8, 4), "max_length": 24, "early_stop_patience": 2, "data_dir": "data"}
EVALUATIONS = [
    selection.Evaluation(step, "validation", {"loss": 1 / step, "accuracy": accuracy})
    for step, accuracy in ((5, 0.5), (10, 0.75), (15, 0.625))
]
SAMPLE = 300  # Bits of a file.
BITS = pytest.mark.parametrize("bits", ["sample", pytest.param("all", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with `data` and a `model` of two attempts, as this version writes them."""
    folder = tmp_path_factory.mktemp("run")
    data, model = folder / "data", folder / "model"
    shutil.copytree(MADE_BEFORE / "data", data)
    digest = hashlib.sha256((data / "dataset.json").read_bytes()).hexdigest()
    (data / "dataset.json.sha256").write_text(f"{digest}  dataset.json\n")
    config, facts = configuration.from_flat(CONFIG), {"vocabulary_sha256": "ab"}
    for began, saved in ((0, 10), (10, 20)):
        with lock.hold(model) as held:
            held.began(began)
            journal = Journal(model / "journal.jsonl", held.number)
            journal.write("start", step=began, total=20)
            _commit(model, saved, held.number, resuming.document(config, facts), digest)
            journal.write("finish", step=saved)
            journal.write("stop", code=0 if saved == 20 else 143)
            journal.close()
    resuming.write(config, model, facts)
    excerpt.keep(store.open_dataset(data), model)
    (model / "evaluations.jsonl").write_text("".join(f"{line}\n" for line in _lines(20)))
    return folder


def _lines(step) -> list[str]:
    return [entry.to_json() for entry in EVALUATIONS if entry.step <= step]


def _commit(model, step, attempt, config, dataset_digest) -> None:
    folder = commits.folder_of(model / "checkpoints", step)
    folder.mkdir(parents=True)
    files = {name: {"size": 5720, "sha256": "8f" * 32} for name in ("tensors.index", "tensors.d")}
    manifest = {
        "format": 1,
        "step": step,
        "attempt": attempt,
        "state_digest": f"{step:064x}",
        "config_digest": config["digest"],
        "dataset_digest": dataset_digest,
        "files": files,
        "config": config,
        "evaluations": _lines(step),
    }
    (folder / "MANIFEST.json").write_text(json.dumps(sealed.seal(manifest), indent=2) + "\n")


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A folder with `data` and `model` as version 0.1.0 wrote them."""
    return shutil.copytree(MADE_BEFORE, tmp_path_factory.mktemp("older") / "run")


def flips(path: pathlib.Path, bits: str):
    """Flips bits of a file in turn; yields the number of each while it is flipped."""
    content = path.read_bytes()
    numbers = range(8 * len(content))
    if bits == "sample" and len(numbers) > SAMPLE:
        numbers = sorted(random.Random(path.name).sample(numbers, SAMPLE))
    try:
        for number in numbers:
            flipped = bytearray(content)
            flipped[number // 8] ^= 1 << number % 8
            path.write_bytes(flipped)
            yield number
    finally:
        path.write_bytes(content)


def check(path, bits, read, errors=DataError, named=None) -> int:
    """Asserts that `read` answers the same or names the file, whatever bit is flipped.

    Returns how many flips it noticed.
    """
    expected, noticed = read(), 0
    for number in flips(path, bits):
        try:
            found = read()
        except errors as problem:
            assert str(named or path) in str(problem), number
            noticed += 1
        else:
            assert found == expected, number
    assert read() == expected
    return noticed


# --- a run of this version ------------------------------------------------------------------------


@BITS
def test_config_json_is_as_it_was_written_or_refused(run, bits):
    model = run / "model"
    noticed = check(
        model / "config.json", bits, lambda: (resuming.written_in(model), resuming.facts_in(model))
    )
    assert noticed


@BITS
def test_a_flipped_manifest_leads_to_the_checkpoint_below(run, bits):
    folder = run / "model/checkpoints/step-00000020"
    good = commits.read_manifest(folder)
    for number in flips(folder / "MANIFEST.json", bits):
        try:
            assert commits.read_manifest(folder) == good, number
            step = 20
        except commits.Damaged as problem:
            assert str(folder) in str(problem) and "MANIFEST.json" in str(problem)
            step = 10
        assert commits.newest(run / "model") == commits.Commit(step, f"{step:064x}"), number
        assert resuming.written_in(run / "model")["max_length"] == 24


@BITS
def test_evaluations_come_from_the_checkpoint_whatever_the_file_holds(run, bits, caplog):
    path = run / "model/evaluations.jsonl"
    for number in flips(path, bits):
        history = selection.History(path, 20, kept=_lines(20))
        assert history.evaluations == EVALUATIONS, number
        assert selection.best(history.evaluations, "accuracy").step == 10
        assert path.read_text().splitlines() == _lines(20)


@BITS
def test_fences_stay_when_the_record_of_an_attempt_is_damaged(run, bits):
    """The journal has them, too."""
    model = run / "model"
    path = attempts.path_of(model, 2)
    assert attempts.fences(model) == ((1, 0), (2, 10))
    for number in flips(path, bits):
        assert attempts.fences(model) == ((1, 0), (2, 10)), number
        assert attempts.numbers(model) == [1, 2]


@BITS
def test_a_damaged_journal_finishes_no_run_and_changes_no_fence(run, bits):
    model = run / "model"
    line = f"done step=20 state_digest={20:064x}"
    assert commits.finished_line(model, 20) == line and not commits.finished_line(model, 10)
    for number in flips(model / "journal.jsonl", bits):
        assert commits.finished_line(model, 20) in (line, ""), number
        assert not commits.finished_line(model, 10) and not commits.finished_line(model, 22)
        assert attempts.fences(model) == ((1, 0), (2, 10))


@BITS
@pytest.mark.parametrize(
    "name", ["dataset.json", "dataset.json.sha256", "vocabulary.txt", "labels.txt"]
)
def test_every_bit_of_a_prepared_dataset_counts(run, bits, name):
    data = run / "data"
    named = data / ("dataset.json" if name.endswith("sha256") else name)
    noticed = check(data / name, bits, lambda: _opened(data), named=named)
    assert noticed == min(SAMPLE if bits == "sample" else 10**9, 8 * (data / name).stat().st_size)


@BITS
def test_every_bit_of_the_arrays_counts(run, bits):
    path = run / "data/validation/offsets.npy"
    assert check(path, bits, lambda: _opened(run / "data"))


@BITS
@pytest.mark.parametrize("name", ["dataset.json", "vocabulary.txt", "labels.txt"])
def test_every_bit_of_what_the_model_folder_keeps_of_it_counts(run, bits, name):
    model, digest = run / "model", _opened(run / "data")[0]

    def read():
        found = excerpt.opened(model, digest)
        return found.description, found.vocabulary, found.labels

    path = model / "dataset" / name
    noticed = check(path, bits, read)
    assert noticed == min(SAMPLE if bits == "sample" else 10**9, 8 * path.stat().st_size)


def _opened(data):
    dataset = store.open_dataset(data)
    splits = {
        name: (split.inputs.tolist(), split.offsets.tolist(), split.targets.tolist())
        for name, split in dataset.splits.items()
    }
    return dataset.digest, dataset.vocabulary, dataset.labels, splits


# --- a run of an older version, whose files cover less --------------------------------------------


@BITS
def test_of_an_older_configuration_the_flags_that_affect_the_result_are_covered(older, bits):
    model = older / "model"

    def read():
        return resuming.affecting(configuration.from_flat(resuming.written_in(model)))

    check(model / "config.json", bits, read)


@BITS
def test_of_an_older_manifest_the_state_and_its_files_are_covered(older, bits):
    """The digests of configuration and dataset and the attempt are not, but nothing breaks."""
    folder = older / "model/checkpoints/step-00000012"
    good = commits.read_manifest(folder)
    for number in flips(folder / "MANIFEST.json", bits):
        try:
            found = commits.read_manifest(folder)
        except commits.Damaged as problem:
            assert "MANIFEST.json" in str(problem)
            continue
        # `checkpoint.load` compares these with the payload.
        rest = {name: found[name] for name in ("attempt", "config_digest", "dataset_digest")}
        assert {**good, **rest} == found or _differs_in_what_is_compared(found, good), number


def _differs_in_what_is_compared(found, good) -> bool:
    return any(found[name] != good[name] for name in ("state_digest", "files"))


@BITS
def test_of_an_older_dataset_all_is_covered_that_affects_a_result(older, bits):
    data = older / "data"
    description = store.open_dataset(data).description

    def read():
        dataset = store.open_dataset(data)
        tokenizer = dataset.tokenizer
        if tokenizer != description["tokenizer"]:  # `text.Tokenizer` refuses the difference.
            assert (tokenizer["name"], tokenizer.get("version")) != ("words", 1)
        return _opened(data)[1:], dataset.task, dataset.target, dataset.order

    check(data / "dataset.json", bits, read, named=data)


@BITS
@pytest.mark.parametrize("name", ["evaluations.jsonl", "lock/00000001", "journal.jsonl"])
def test_other_older_files_end_no_reader_with_a_traceback(older, bits, name):
    model = older / "model"
    for _ in flips(model / name, bits):
        attempts.fences(model)
        commits.finished_line(model, 12)
        try:
            selection.History(model / "evaluations.jsonl", 12)
        except DataError as problem:
            assert str(model / "evaluations.jsonl") in str(problem)


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    classifier.trained(folder, classifier.sentences(40, seed=3))
    return folder


ASKED = {
    "evaluate": ["--format=json"],
    "predict": ["--format=jsonl", "a funny film about a clown", "robot and laser"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ASKED)
@pytest.mark.parametrize(
    "name",
    [
        "model/config.json",
        "model/best/*/MANIFEST.json",
        "model/lock/00000001",
        "model/journal.jsonl",
        "model/evaluations.jsonl",
        "model/dataset/dataset.json",
        "model/dataset/vocabulary.txt",
        "data/dataset.json",
        "data/dataset.json.sha256",
        "data/vocabulary.txt",
        "data/labels.txt",
    ],
)
def test_a_command_prints_the_same_or_exits_3_and_names_the_file(trained, command, name):
    [path] = trained.glob(name)
    asked = [command, f"--model_dir={trained / 'model'}", *ASKED[command]]
    expected = commands.call(*asked)
    assert expected.code == 0, expected.err
    content = path.read_bytes()
    chance = random.Random(f"{command} {name}")
    try:
        for number in chance.sample(range(8 * len(content)), 12):
            flipped = bytearray(content)
            flipped[number // 8] ^= 1 << number % 8
            path.write_bytes(flipped)
            answer = commands.call(*asked)
            assert "Traceback" not in answer.err
            if answer.code == 0:
                assert answer.out == expected.out, number
            else:
                assert answer.code == 3 and path.name.removesuffix(".sha256") in answer.err, number
    finally:
        path.write_bytes(content)
    assert commands.call(*asked).out == expected.out
