"""The exact result of small runs, held to the bit: a change that should not alter results alters
none of these.

`digests.json` has the `state_digest` of each configuration below, keyed by the build of TensorFlow
and the kind of CPU that computed it: another build or CPU may round differently and skips with a
reason. To prove a change on such a machine, record its digests at the commit before the change
(`--record_digests` adds them to the file), then test after it.

`data/made_before` holds a dataset and a run in the middle that commit 99418cd wrote: what was begun
by an older version continues with the same bits.
"""

import hashlib
import json
import pathlib
import platform
import re
import shutil

import pytest
import tensorflow as tf

from tests import classifier, commands, datasets

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "digests.json"
MADE_BEFORE = HERE / "data" / "made_before"

JOB = [
    "--units=5",
    "--embedding_size=3",
    "--max_length=8",
    "--batch_size=20",
    "--steps=12",
    "--learning_rate=0.02",
    "--seed=3",
    "--threads=2",
    "--shards=1",
    "--fuse=off",
    "--eval_steps=-1",
    "--log_steps=100",
]
ONE_LENGTH = ["--padding=pre"]  # A single shape to compile.
CONFIGURATIONS = {
    "simple_rnn": ["--cell=simple_rnn", "--padding=pre", "--truncate=start"],
    "lstm in buckets, two shards, dropout": [
        "--cell=lstm",
        "--max_length=12",
        "--shards=2",
        "--dropout=0.3",
        "--word_dropout=0.1",
    ],
    "gru without buckets": [
        "--cell=gru",
        "--nobucket",
        "--optimizer=adamw",
        "--schedule=cosine",
        "--warmup_steps=3",
    ],
    "two layers, evaluated": [
        "--cell=gru",
        "--units=5,4",
        "--nobucket",
        "--pooling=mean",
        "--dropout=0.2",
        "--eval_steps=6",
    ],
    "stepwise": [*ONE_LENGTH, "--fuse=off", "--pooling=max"],
    "fused": [*ONE_LENGTH, "--fuse=on", "--pooling=max", "--dropout=0.1"],
    "averaged weights, clipped": [
        *ONE_LENGTH,
        "--ema=0.9",
        "--clip_norm=0.5",
        "--schedule=exponential",
    ],
    "bfloat16": [*ONE_LENGTH, "--precision=bfloat16"],
    "float16, weighted classes": [
        *ONE_LENGTH,
        "--precision=float16",
        "--class_weights=balanced",
        "--label_smoothing=0.1",
    ],
    "accumulated": [*ONE_LENGTH, "--accumulate=2", "--shards=2"],
    "one-hot, sgd": [
        *ONE_LENGTH,
        "--cell=simple_rnn",
        "--one_hot",
        "--optimizer=sgd",
        "--word_dropout=0.2",
    ],
    "float64": [*ONE_LENGTH, "--precision=float64", "--dropout=0.3"],
    "float64 on two devices": [*ONE_LENGTH, "--precision=float64", "--dropout=0.3", "--devices=2"],
}
# A text in streams, which carry their states.
OF_TEXT = {
    "streams, tied embedding": ["--tied_embedding", "--shards=2", "--dropout=0.2", "--units=5,4"],
    "streams, output of its own": ["--cell=gru", "--clip_norm=0.5", "--eval_steps=6"],
}
OF_PAIRS = {
    "pairs": ["--cell=gru", "--bidirectional", "--label_smoothing=0.1", "--shards=2"],
    "pairs, tied and dropped": [
        *("--tied_embedding", "--attention=dot", "--dropout=0.2", "--variational_dropout"),
        "--translate_examples=0",
    ],
}
OF_FRAMES = {
    "frames, classes": ["--frame_encoder=convolution", "--shards=2", "--dropout=0.2"],
    "frames, values": [
        "--cell=gru",
        "--frame_encoder=dense",
        "--regression_loss=huber",
        "--eval_steps=6",
    ],
}
OF_TAGS = {"tags": ["--bidirectional", "--dropout=0.1", "--class_weights=balanced"]}
# 30 s of tracing.
SLOW = {
    "layers of Keras, not compiled": [
        "--nobucket",
        "--bidirectional",
        "--jit=off",
        "--rnn_from_cell",
    ]
}


def machine() -> str:
    """What decides bits beside the configuration: the build of TensorFlow and the kind of CPU."""
    known = {}
    if pathlib.Path("/proc/cpuinfo").exists():
        lines = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        known = {
            name.strip(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
    vector = re.findall(
        r"\b(avx\w*|fma|amx\w*|sve\w*|asimd\w*)\b", known.get("flags", known.get("Features", ""))
    )
    kind = [known.get(name, "?") for name in ("vendor_id", "cpu family", "model")]
    cpu = f"{platform.machine()} {' '.join(kind)}, {' '.join(sorted(vector))}"
    return f"TensorFlow {tf.version.GIT_VERSION} on {cpu}"


@pytest.fixture(scope="module")
def golden(request):
    """A check of one digest: equal to what `digests.json` has for this machine, or recorded
    there.
    """
    known = json.loads(GOLDEN.read_text())
    found = {}

    def check(name: str, digest: str) -> None:
        found[name] = digest
        if request.config.getoption("--record_digests"):
            return
        if name not in known.get(machine(), {}):
            pytest.skip(
                f"digests.json has no digest of {name} on this machine ({machine()}): record them "
                "before a change, with --record_digests"
            )
        assert digest == known[machine()][name]

    yield check
    if request.config.getoption("--record_digests"):
        GOLDEN.write_text(
            json.dumps({**known, machine(): known.get(machine(), {}) | found}, indent=2) + "\n"
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared dataset of 120 sentences."""
    folder = tmp_path_factory.mktemp("digests")
    classifier.write_csv(folder / "train.csv", classifier.sentences(120, seed=5))
    classifier.write_csv(folder / "validation.csv", classifier.sentences(30, seed=6))
    classifier.run(
        "prepare",
        f"--raw_data={folder / 'train.csv'}",
        f"--validation_data={folder / 'validation.csv'}",
        f"--data_dir={folder / 'data'}",
    )
    return folder / "data"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A prepared text of 1,200 words."""
    folder = tmp_path_factory.mktemp("digests") / "text"
    splits = {"train": [datasets.random_text(1200)], "validation": [datasets.random_text(90, 1)]}
    datasets.write_text(folder, splits, vocabulary_size=30)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A dataset of 60 pairs."""
    folder = tmp_path_factory.mktemp("digests") / "pairs"
    splits = datasets.random_pairs(train=60)
    splits["validation"] = splits.pop("test")
    words = [f"w{number}" for number in range(26)]
    datasets.write_pairs(folder, splits, words=words, target_words=words)
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Datasets of 60 sequences of small pictures: {name of a run: folder}."""
    folder, found = tmp_path_factory.mktemp("frames"), {}
    for name, values in zip(OF_FRAMES, ((), ("mean", "rest"))):
        splits = datasets.random_frames(features=12, values=len(values), train=60)
        splits["validation"] = splits.pop("test")
        labels = () if values else ("a", "b", "c")
        found[name] = folder / name.replace(", ", "_")
        datasets.write_numbers(found[name], splits, shape=(3, 4), labels=labels, values=values)
    return found


@pytest.fixture(scope="module")
def tags(tmp_path_factory):
    """A prepared dataset of 90 sentences whose long words are tagged."""
    folder = tmp_path_factory.mktemp("digests")
    sentences = [sentence.split() for sentence, _ in classifier.sentences(90, seed=5)]
    (folder / "train.conll").write_text(
        "\n".join(
            "".join(f"{word} {'B-LONG' if len(word) > 4 else 'O'}\n" for word in sentence)
            for sentence in sentences
        )
    )
    classifier.run(
        "prepare",
        "--task=tagging",
        "--source=conll",
        f"--raw_data={folder / 'train.conll'}",
        f"--data_dir={folder / 'data'}",
    )
    return folder / "data"


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_dataset_is_the_same_to_the_bit(data):
    """On every machine: preparing computes with whole numbers."""
    assert (
        sha256(data / "dataset.json")
        == "16a1ae416e9bf13a565a16211a423c82ff791f40330bd39f40661a314c27e23e"
    )


@pytest.mark.parametrize(
    "name", [*CONFIGURATIONS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_a_run_ends_with_the_same_bits(name, data, tmp_path, golden):
    answer = commands.call(
        "train",
        f"--data_dir={data}",
        f"--model_dir={tmp_path / 'model'}",
        *JOB,
        *(CONFIGURATIONS | SLOW)[name],
    )
    assert answer.code == 0, answer.err
    golden(name, answer.digest)
    if "evaluated" in name:
        golden(f"{name}: evaluations.jsonl", sha256(tmp_path / "model/evaluations.jsonl"))


@pytest.mark.parametrize("name", OF_TEXT | OF_TAGS | OF_PAIRS | OF_FRAMES)
def test_a_run_of_another_task_ends_with_the_same_bits(name, tmp_path, golden, request):
    of_names = {"text": OF_TEXT, "tags": OF_TAGS, "pairs": OF_PAIRS, "frames": OF_FRAMES}
    [fixture] = [fixture for fixture, names in of_names.items() if name in names]
    data = request.getfixturevalue(fixture)
    answer = commands.call(
        "train",
        f"--data_dir={data[name] if fixture == 'frames' else data}",
        f"--model_dir={tmp_path / 'model'}",
        *JOB,
        *of_names[fixture][name],
    )
    assert answer.code == 0, answer.err
    golden(name, answer.digest)


def test_a_run_that_an_older_version_began_continues_to_the_same_bits(tmp_path, golden):
    """Another machine rounds differently, but continues too: only the digest is skipped there."""
    shutil.copytree(MADE_BEFORE, tmp_path, dirs_exist_ok=True)
    answer = commands.call(
        "train",
        f"--data_dir={tmp_path / 'data'}",
        f"--model_dir={tmp_path / 'model'}",
        *json.loads((MADE_BEFORE / "flags.json").read_text()),
        "--steps=24",
    )
    assert answer.code == 0, answer.err
    assert "restored step 12 of 24" in answer.err
    assert answer.lines[-1].startswith("done step=24 ")
    golden("continued from step 12", answer.digest)


@pytest.mark.parametrize(
    "command",
    [["evaluate", "--split=validation", "--format=json"], ["predict", "a robot in love", "laugh"]],
)
def test_a_model_that_an_older_version_trained_is_read(command, tmp_path):
    shutil.copytree(MADE_BEFORE, tmp_path, dirs_exist_ok=True)
    name, *arguments = command
    answer = commands.call(
        name,
        f"--data_dir={tmp_path / 'data'}",
        f"--model_dir={tmp_path / 'model'}",
        "--checkpoint=newest",
        *arguments,
    )
    assert answer.code == 0, answer.err
    expected = (MADE_BEFORE / f"{name}.txt").read_text()
    assert numbers(answer.out) == pytest.approx(numbers(expected), rel=1e-3)
    assert re.sub(r"[\d.]+(e-\d+)?", "0", answer.out) == re.sub(r"[\d.]+(e-\d+)?", "0", expected)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+(?:e-\d+)?", text)]
