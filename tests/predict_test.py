import csv
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests import classifier, commands
from tests.export import small_models
from trainer import predict as command
from trainer.exit_codes import UsageError
from trainer.flags.prepare import Prepare
from trainer.flags.use import Predict
from trainer.prepare import command as prepare

TEXTS = [
    "a funny film about a clown",
    "robot and laser",
    "",
    "love, TEARS and family!",
    "unheard-of words",
    "déjà vu",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    classifier.trained(folder, classifier.sentences(50, seed=3))
    return folder / "model"


def predict(model, *arguments, **options) -> commands.Answer:
    return commands.call("predict", f"--model_dir={model}", *arguments, **options)


@pytest.fixture(scope="module")
def rows(model):
    """The objects that `--format=jsonl` prints for TEXTS."""
    answer = predict(model, "--format=jsonl", *TEXTS)
    assert answer.code == 0, answer.err
    return [json.loads(line) for line in answer.lines]


def test_jsonl_gives_each_text_its_label_and_the_probability_of_every_class(rows):
    assert [row["text"] for row in rows] == TEXTS
    for row in rows:
        assert set(row["probabilities"]) == set(classifier.WORDS)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert (
            row["probability"]
            == max(row["probabilities"].values())
            == row["probabilities"][row["label"]]
        )
    assert [row["label"] for row in rows[:2]] == ["comedy", "science fiction"]


def test_text_form_is_label_probability_and_text_between_tabs(model, rows):
    answer = predict(model, *TEXTS)
    assert answer.lines == [
        f"{row['label']}\t{row['probability']:.4f}\t{row['text']}" for row in rows
    ]


def test_a_model_folder_stands_alone(model, rows, tmp_path):
    """The data has gone, and the model has moved; only `evaluate` misses the data."""
    alone = shutil.copytree(model, tmp_path / "alone")
    data = (model.parent / "data").rename(model.parent / "elsewhere")
    try:
        answer = predict(alone, "--format=jsonl", *TEXTS)
        assert [json.loads(line) for line in answer.lines] == rows, answer.err
        evaluated = commands.call("evaluate", f"--model_dir={alone}")
        assert evaluated.code == 2 and "reads examples, which the model folder" in evaluated.err
        (alone / "dataset/labels.txt").write_text("other\nnames\n")
        answer = predict(alone, *TEXTS)
        assert (answer.code, answer.out) == (3, "") and "dataset/labels.txt: " in answer.err
    finally:
        data.rename(model.parent / "data")
    answer = predict(alone, "--format=jsonl", *TEXTS)
    assert [json.loads(line) for line in answer.lines] == rows


BYTES = [text.encode() for text in TEXTS]


@pytest.mark.parametrize(
    "content",
    [
        b"\n".join(BYTES) + b"\n",
        b"\n".join(BYTES),
        b"\r\n".join(BYTES) + b"\r\n",
        b"\xef\xbb\xbf" + b"\n".join(BYTES) + b"\n",
        b"\xef\xbb\xbf" + b"\r\n".join(BYTES),
    ],
    ids=["lines", "no end", "CRLF", "BOM", "BOM and CRLF"],
)
def test_a_file_and_standard_input_say_what_arguments_say(model, rows, tmp_path, content):
    (tmp_path / "texts").write_bytes(content)
    from_file = predict(model, "--format=jsonl", f"--input={tmp_path / 'texts'}")
    from_input = predict(model, "--format=jsonl", stdin=content)
    assert from_file == from_input and from_file.code == 0
    for row, expected in zip(map(json.loads, from_file.lines), rows, strict=True):
        assert row["text"] == expected["text"] and row["label"] == expected["label"]
        assert row["probability"] == pytest.approx(expected["probability"], rel=1e-5)


def test_every_line_of_a_long_file_is_answered_in_its_place(model, tmp_path):
    texts = [
        f"{text} {number}" for number, (text, _) in enumerate(classifier.sentences(200, seed=5))
    ]
    (tmp_path / "texts").write_text("".join(f"{text}\n" for text in texts))
    answer = predict(model, "--format=jsonl", f"--input={tmp_path / 'texts'}")
    assert [json.loads(line)["text"] for line in answer.lines] == texts


def test_a_text_is_one_line_whatever_is_in_it(model):
    answer = predict(model, "--", "two\nlines\r\nand more", "--help", "a\ttab")
    assert answer.code == 0
    assert [line.split("\t", 2)[2] for line in answer.lines] == [
        "two lines and more",
        "--help",
        "a\ttab",
    ]


def test_nothing_in_gives_nothing_out(model):
    assert predict(model, stdin=b"") == commands.Answer(0, "", "")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"fine\nb\xff\n", "standard input:2 is not valid UTF-8"),
        (b"\xff\xfea\x00", "standard input:1 is not valid UTF-8"),
        (b"fine\ncut off \xc3", "standard input:2 is not valid UTF-8"),
    ],
)
def test_bad_utf_8_exits_3_and_names_the_line(model, content, message):
    answer = predict(model, stdin=content)
    assert answer.code == 3 and message in answer.err and "Traceback" not in answer.err


def test_a_bad_line_in_a_file_names_the_file(model, tmp_path):
    (tmp_path / "texts").write_bytes(b"fine\n" * 70 + b"b\xff\n")
    answer = predict(model, f"--input={tmp_path / 'texts'}")
    assert answer.code == 3 and f"{tmp_path / 'texts'}:71 is not valid UTF-8" in answer.err
    assert len(answer.lines) == 64  # Whole groups that came before it.


def test_an_argument_that_is_not_utf_8_exits_3(model):
    answer = predict(model, "fine", os.fsdecode(b"b\xff"))
    assert (answer.code, answer.out) == (
        3,
        "",
    ) and "text 2 on the command line is not valid UTF-8" in answer.err


@pytest.mark.parametrize("name, message", [("nowhere", "No such file"), (".", "Is a directory")])
def test_an_input_that_cannot_be_read_exits_2(model, tmp_path, name, message):
    answer = predict(model, f"--input={tmp_path / name}")
    assert (
        (answer.code, answer.out) == (2, "") and message in answer.err and "--input=" in answer.err
    )


def test_a_reader_that_goes_away_ends_the_command_quietly(model, tmp_path):
    (tmp_path / "texts").write_text("a film\n" * 5000)
    process = commands.start("predict", f"--model_dir={model}", f"--input={tmp_path / 'texts'}")
    assert process.stdout.readline().endswith("\ta film\n")
    process.stdout.close()
    process.stdout = None
    answer = commands.finish(process)
    assert answer.code == 0 and "Traceback" not in answer.err and "BrokenPipe" not in answer.err


def test_what_the_terminal_cannot_show_is_escaped(model):
    process = commands.start(
        "predict", f"--model_dir={model}", "déjà vu", environment={"PYTHONIOENCODING": "ascii"}
    )
    answer = commands.finish(process)
    assert answer.code == 0 and answer.out.endswith("\td\\xe9j\\xe0 vu\n")


@pytest.mark.parametrize("flag", ["--score", "--tokens=5", "--temperature=0", "--seed=3"])
def test_a_flag_that_the_model_would_ignore_exits_2(model, flag):
    answer = predict(model, flag, "a film")
    assert (answer.code, answer.out) == (2, "")
    assert flag.partition("=")[0] in answer.err and "classification" in answer.err


# --- Tables and files -----------------------------------------------------------------------------

TABLES = {
    "csv": 'number,text\n7,"a funny film\n, about a clown"\n8,robot and laser\n',
    "tsv": 'number\ttext\n7\ta "funny film about a clown\n8\trobot and laser\n',
    "jsonl": '{"number": 7, "text": "a funny\\nfilm about a clown"}\n'
    '{"number": 8, "text": "robot and laser"}\n',
}


@pytest.mark.parametrize("form", TABLES)
def test_a_table_is_read_as_prepare_reads_it_and_answers_carry_the_ids(form, model, tmp_path):
    (tmp_path / "new").write_text(TABLES[form])
    flags = [f"--source={form}", f"--input={tmp_path / 'new'}", "--id_column=number"]
    answer = predict(model, *flags, "--format=jsonl")
    assert answer.code == 0, answer.err
    printed = [json.loads(line) for line in answer.lines]
    assert [int(row["id"]) for row in printed] == [7, 8]
    assert [row["label"] for row in printed] == ["comedy", "science fiction"]
    # The same into files, which come instead of the lines.
    for ending in ("csv", "jsonl"):
        answer = predict(model, *flags, f"--output={tmp_path / f'out.{ending}'}")
        assert (answer.code, answer.out) == (0, ""), answer.err
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    assert list(map(json.loads, written)) == printed
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "label", "probability", *printed[0]["probabilities"]]
    for row, expected in zip(rows, printed, strict=True):
        assert row["id"] == str(expected["id"]) and row["label"] == expected["label"]
        for label, chance in expected["probabilities"].items():
            assert float(row[label]) == chance
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "out.csv", "out.jsonl"]


def test_an_id_that_is_not_utf_8_is_written_with_escapes(model, tmp_path):
    (tmp_path / "new").write_bytes(b"number,text\n7\xff,a film\n")
    flags = ["--source=csv", f"--input={tmp_path / 'new'}", "--id_column=number"]
    [printed] = predict(model, *flags, "--format=jsonl").lines
    for ending in ("csv", "jsonl"):
        answer = predict(model, *flags, f"--output={tmp_path / f'out.{ending}'}")
        assert (answer.code, answer.out) == (0, ""), answer.err
    assert json.loads((tmp_path / "out.jsonl").read_text()) == json.loads(printed)
    assert json.loads(printed)["id"] == "7\udcff"
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("7\\udcff,")


def test_a_bad_table_leaves_the_output_that_was_there(model, tmp_path):
    (tmp_path / "new").write_text("id,text\n1,a film\n2,a,b\n")
    (tmp_path / "out.csv").write_text("before")
    flags = ["--source=csv", f"--input={tmp_path / 'new'}"]
    answer = predict(model, *flags, f"--output={tmp_path / 'out.csv'}")
    assert answer.code == 3 and f"{tmp_path / 'new'}:3" in answer.err
    answer = predict(model, *flags, "--text_column=review", f"--output={tmp_path / 'out.csv'}")
    assert answer.code == 3 and "--text_column" in answer.err
    answer = predict(model, *flags, "--id_column=no", f"--output={tmp_path / 'out.csv'}")
    assert answer.code == 3 and "--id_column" in answer.err
    assert (tmp_path / "out.csv").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "out.csv"]


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--output={0}/no/out.csv"], "no folder"),
        (["--output={0}/folder.csv"], "exists and is not a file"),
        (["--output={0}/new.csv", "--input={0}/new.csv"], "it is --input"),
        (["--output={0}/out.txt"], "must be a plain path that ends with .csv or .jsonl"),
        (["--id_column=id"], "only a table has columns"),
        (["--id_column=id", "--source=csv", "--input={0}/new.csv"], "Use --format=jsonl"),
        (["--source=folder", "--input={0}/new.csv"], "predict reads csv | tsv | jsonl"),
        (["--input={0}/pipe"], "it is a named pipe"),
        (["--input={0}/loop"], "Too many levels of symbolic links"),
    ],
)
def test_files_that_cannot_be_used_exit_2_before_a_text_is_read(flags, told, model, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "new.csv").write_text("id,text\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    answer = predict(model, *(flag.format(tmp_path) for flag in flags))
    assert (answer.code, answer.out) == (2, "") and told in answer.err


@pytest.mark.parametrize(
    "name, first, found",
    [
        ("new.csv", "a film", "csv"),
        ("new.tsv.gz", "a film", "tsv"),
        ("standard input", '{"text": "a film"}', "jsonl"),
        ("texts", "id,text,label", "csv"),
        ("texts", '"id"\t"text"', "tsv"),
        ("texts", "text", ""),
        ("texts", "Yes, maybe", ""),
        ("texts", "a film, a play", ""),
        ("texts", "1,2", ""),
        ("texts", "", ""),
    ],
)
def test_lines_that_look_like_a_table_are_noticed(name, first, found, monkeypatch):
    said = []
    monkeypatch.setattr(command.log, "warning", lambda text, *values: said.append(text % values))
    command._warn_of_table(name, first)
    assert (f"use --source={found} --text_column=NAME" in "".join(said)) == bool(found)


def test_input_without_end_and_long_lines_exit_3(model):
    answer = predict(model, "--input=/dev/zero")
    assert answer.code == 3 and "/dev/zero:1: the line is longer than 1000000 bytes" in answer.err
    answer = predict(model, "--max_line_bytes=4", stdin=b"abcd\r\nabcde\n")
    assert answer.code == 3 and "standard input:2: the line is longer than 4 bytes" in answer.err
    answer = predict(model, stdin=b"a\0b\n")
    assert answer.code == 3 and "standard input:1: the text holds a NUL byte" in answer.err


def test_no_text_controls_the_terminal(model):
    assert predict(model, "\x1b[2J\x9b1mfilm").out.endswith("\t\\x1b[2J\\x9b1mfilm\n")
    [line] = predict(model, "--format=jsonl", "\x1b[2J\x9b1mfilm").lines
    assert line.isprintable() and json.loads(line)["text"] == "\x1b[2J\x9b1mfilm"


# --- Other tasks ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a function from the maker of a dataset to the folder of a model trained on it."""
    made = {}

    def of(make):
        if make not in made:
            folder = tmp_path_factory.mktemp("trained")
            dataset = make(folder)
            answer = commands.call(
                "train",
                f"--data_dir={dataset.folder}",
                f"--model_dir={folder / 'model'}",
                "--units=8",
                "--embedding_size=4",
                "--max_length=6",
                "--batch_size=4",
                "--learning_rate=0.05",
                "--steps=20",
                "--eval_steps=-1",
                "--threads=2",
                "--shards=1",
            )
            assert answer.code == 0, answer.err
            made[make] = folder / "model"
        return made[make]

    return of


def a_text(folder):
    return small_models.a_text(folder, "words")


def test_sentences_are_separated_by_one_empty_line(trained):
    model = trained(small_models.a_tagged_text)
    content = b"the cat\n\non a mat\n"
    rows = [json.loads(line) for line in predict(model, "--format=jsonl", stdin=content).lines]
    assert [row["tokens"] for row in rows] == [["the", "cat"], [], ["on", "a", "mat"]]
    blocks = [
        "".join(f"{token} {tag}\n" for token, tag in zip(row["tokens"], row["tags"]))
        for row in rows
    ]
    # The empty sentence lies between two empty lines.
    assert predict(model, stdin=content).out == "\n".join(blocks)
    assert predict(model, "the cat").out == blocks[0]
    # Also between two groups of lines.
    many = predict(model, stdin=b"the cat\n" * 70)
    assert many.out == "\n".join([blocks[0]] * 70)


def test_a_prompt_of_unknown_words_exits_3_and_is_named(trained):
    answer = predict(trained(a_text), "the cat", "zzz")
    assert answer.code == 3 and "text 2 on the command line" in answer.err and "'zzz'" in answer.err
    answer = predict(trained(a_text), stdin=b"the\ncat\nzzz yyy\n")
    assert answer.code == 3 and "standard input:3" in answer.err


def test_texts_are_continued_and_scored_in_both_formats(trained):
    model = trained(a_text)
    texts = ["the cat", ""]
    flags = ["--tokens=5", "--seed=4", *texts]
    rows = [json.loads(line) for line in predict(model, "--format=jsonl", *flags).lines]
    assert [row["text"] for row in rows] == texts
    assert all(set(row) == {"text", "continuation", "next"} for row in rows)
    lines = predict(model, *flags).lines
    assert lines == [f"{row['text']}\t{row['continuation']}" for row in rows]
    scored = predict(model, "--score", *texts).lines
    rows = [json.loads(line) for line in predict(model, "--score", "--format=jsonl", *texts).lines]
    assert scored == [
        f"{row['log_probability']:.4f}\t{row['perplexity']:.4f}\t{row['text']}" for row in rows
    ]


def of_saved_model(path, task, texts):
    """What the SavedModel in `path` answers to texts, in the form of `predict`."""
    signatures = tf.saved_model.load(str(path)).signatures
    if task == "tagging":
        rows = [text.split() for text in texts]
        longest = max(map(len, rows))
        tokens = tf.constant([row + [""] * (longest - len(row)) for row in rows])
        tags = signatures["serving_default"](tokens=tokens)["tags"].numpy()
        return [{"tags": [tag.decode() for tag in row if tag]} for row in tags]
    answer = signatures["serving_default"](text=tf.constant(texts))
    if task == "classification":
        return [
            {"label": label.decode(), "probability": float(max(chances))}
            for label, chances in zip(answer["label"].numpy(), answer["probabilities"].numpy())
        ]
    following = signatures["continue"](
        text=tf.constant(texts),
        tokens=tf.constant(9),
        temperature=tf.constant(0.8),
        seed=tf.constant(5, tf.int64),
    )["text"]
    likeliest = signatures["next"](text=tf.constant(texts))
    return [
        {
            "log_probability": float(answer["log_probability"][row]),
            "perplexity": float(answer["perplexity"][row]),
            "continuation": following[row].numpy().decode(),
            "next": {
                token.decode(): float(chance)
                for token, chance in zip(
                    likeliest["tokens"][row].numpy(), likeliest["probabilities"][row].numpy()
                )
            },
        }
        for row in range(len(texts))
    ]


@pytest.mark.parametrize(
    "task, make, flags",
    [
        ("classification", lambda folder: small_models.a_dataset(folder, "words"), [[]]),
        ("tagging", small_models.a_tagged_text, [[]]),
        ("language_model", a_text, [["--tokens=9", "--temperature=0.8", "--seed=5"], ["--score"]]),
    ],
)
def test_predict_answers_what_the_exported_model_answers(task, make, flags, trained, tmp_path):
    model = trained(make)
    exported = commands.call("export", f"--model_dir={model}", f"--export_dir={tmp_path / 'out'}")
    assert exported.code == 0, exported.err
    assert [line.split()[0] for line in exported.lines] == ["saved_model", "model.keras", "step"]
    texts = ["the cat sat on a mat", "it's a cat", "the", "on on on"]
    expected = of_saved_model(tmp_path / "out" / "saved_model", task, texts)
    compared = set()
    for given in flags:
        answer = predict(model, "--format=jsonl", *given, *texts)
        assert answer.code == 0, answer.err
        for row, wanted in zip(map(json.loads, answer.lines), expected, strict=True):
            for name in row.keys() & wanted.keys():
                compared.add(name)
                if isinstance(row[name], list | str):
                    assert row[name] == wanted[name]
                else:
                    assert row[name] == pytest.approx(wanted[name], rel=1e-4)
    assert compared == expected[0].keys()


def test_sequences_of_numbers_are_read_as_their_dataset_was(tmp_path):
    content = "run,a,label\nu,1,x\nu,2,x\nv,3,y\n"
    (tmp_path / "raw.csv").write_text(content)
    flags = {"sequence_column": "run", "feature_columns": "a", "source": "csv"}
    paths = {"raw_data": f"{tmp_path}/raw.csv", "data_dir": f"{tmp_path}/d"}
    dataset = prepare.prepare(Prepare(**flags, **paths))
    settings = Predict(input=f"{tmp_path}/raw.csv", source="csv")
    found = list(command._rows(settings, [], dataset))
    assert [row.input.id for row in found] == ["u", "v"]
    assert found[0].input.frames.tolist() == [[1], [2]]
    assert found[1].input.place == f"{tmp_path}/raw.csv:4" and found[1].id is None
    with pytest.raises(UsageError, match="'a text': the model reads sequences of numbers, which"):
        list(command._rows(settings, ["a text"], dataset))


def some_steps(folder):
    """A dataset of sequences in a CSV file, of two classes."""
    rows = [f"{run},{step},{run % 2},{'ab'[run % 2]}\n" for run in range(6) for step in range(3)]
    (folder / "raw.csv").write_text("run,one,two,kind\n" + "".join(rows))
    flags = {"sequence_column": "run", "feature_columns": "one,two", "label_column": "kind"}
    paths = {"raw_data": f"{folder}/raw.csv", "data_dir": f"{folder}/data"}
    return prepare.prepare(Prepare(source="csv", **flags, **paths))


def some_arrays(folder):
    """A dataset of sequences in an archive, of two values each."""
    x = np.random.default_rng(0).normal(size=(6, 3, 2))
    np.savez(folder / "raw.npz", x=x, y=x.sum(axis=1))
    paths = {"raw_data": f"{folder}/raw.npz", "data_dir": f"{folder}/data"}
    return prepare.prepare(Prepare(source="arrays", task="regression", **paths))


def in_every_form(model, new, folder):
    """What `predict` answers: (objects, lines of the text form, rows of the .csv file)."""
    flags = [f"--input={new}"]
    objects = [json.loads(line) for line in predict(model, *flags, "--format=jsonl").lines]
    for ending in ("csv", "jsonl"):
        answer = predict(model, *flags, f"--output={folder / f'out.{ending}'}")
        assert (answer.code, answer.out) == (0, ""), answer.err
    written = (folder / "out.jsonl").read_text().splitlines()
    assert list(map(json.loads, written)) == objects
    with open(folder / "out.csv", newline="") as file:
        return objects, predict(model, *flags).lines, list(csv.DictReader(file))


def test_answers_to_sequences_say_first_which_sequence_they_are_for(trained, tmp_path):
    model = trained(some_steps)
    (tmp_path / "new.csv").write_bytes(b"run,one,two\nu,1,0\nu,2,1\n\xff,2,1\n")
    objects, lines, rows = in_every_form(model, tmp_path / "new.csv", tmp_path)
    names = ["sequence", "label", "probability", "probabilities"]
    assert [list(each) for each in objects] == [names] * 2
    assert [each["sequence"] for each in objects] == ["u", "\udcff"]
    assert [line.split("\t")[0] for line in lines] == [each["label"] for each in objects]
    assert [line.split("\t")[2:] for line in lines] == [["u"], ["\udcff"]]
    assert list(rows[0]) == ["id", "label", "probability", "a", "b"]
    assert [row["id"] for row in rows] == ["u", "\\udcff"]


def test_sequences_without_a_name_are_numbered_from_0(trained, tmp_path):
    model = trained(some_arrays)
    np.savez(tmp_path / "new.npz", x=np.ones((70, 3, 2)))  # More than one group.
    objects, lines, rows = in_every_form(model, tmp_path / "new.npz", tmp_path)
    assert [list(each) for each in objects] == [["sequence", "values"]] * 70
    assert [each["sequence"] for each in objects] == list(range(70))
    assert {len(line.split("\t")) for line in lines} == {2}  # The values, and nothing else.
    assert list(rows[0]) == ["id", *objects[0]["values"]]
    assert [row["id"] for row in rows] == list(map(str, range(70)))


def test_a_table_has_a_column_for_each_value(tmp_path):
    settings = Predict(input="x", output=str(tmp_path / "out.csv"))
    with open(tmp_path / "out.csv", "wb") as file:
        write = command._Table(file, settings)
        write({"sequence": "u", "values": {"speed": 1.5, "force": -2.0}})
        write({"sequence": "v", "values": {"speed": 2.5, "force": 0.0}})
    assert (tmp_path / "out.csv").read_text() == "id,speed,force\nu,1.5,-2.0\nv,2.5,0.0\n"


def test_a_folder_is_read_for_a_model_of_sequences_and_refused_for_one_of_texts(tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    np.save(folder / "x.npy", np.zeros((2, 3, 2), np.float32))
    np.savez(tmp_path / "raw.npz", x=np.ones((4, 3, 2)), y=[0, 1, 0, 1])
    paths = {"raw_data": f"{tmp_path}/raw.npz", "data_dir": f"{tmp_path}/d"}
    dataset = prepare.prepare(Prepare(source="arrays", **paths))
    settings = Predict(input=str(folder))
    command._check_files(settings)
    assert len(list(command._rows(settings, [], dataset))) == 2
    texts = dataclasses.replace(dataset, description={})
    with pytest.raises(UsageError, match="Is a directory. Name a file that can be read"):
        command._rows(settings, [], texts)
    with pytest.raises(UsageError, match="Is a directory"):
        command._check_files(dataclasses.replace(settings, source="ts"))
