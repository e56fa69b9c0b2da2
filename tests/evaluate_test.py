"""The metrics of a trained model are exact, however the rows are dealt out."""

import json
import math
import shutil
import types

import numpy as np
import pytest

from tests import classifier, commands
from tests.export import small_models
from trainer import evaluate as evaluate_module
from trainer.data import fields, pipeline
from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.flags.use import Evaluate
from trainer.steps.translations import Translations
from trainer.tasks import bleu, table

# More than one batch of rows; the last one is not full.
TEST_ROWS = classifier.sentences(301, seed=3)
LABELS = sorted(classifier.WORDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    classifier.trained(folder, TEST_ROWS)
    return folder


def evaluate(folder, *flags, **options) -> dict:
    answer = commands.call(
        "evaluate", f"--model_dir={folder / 'model'}", "--format=json", *flags, **options
    )
    assert answer.code == 0, answer.err
    [line] = answer.lines
    return json.loads(line)


@pytest.fixture(scope="module")
def report(folder):
    return evaluate(folder)


@pytest.fixture(scope="module")
def expected(folder):
    """The report, counted by hand from what `predict` prints for each row."""
    texts = folder / "texts"
    texts.write_text("".join(f"{text}\n" for text, _ in TEST_ROWS))
    answer = commands.call(
        "predict", f"--model_dir={folder / 'model'}", f"--input={texts}", "--format=jsonl"
    )
    predictions = [json.loads(line) for line in answer.lines]
    pairs = [
        (label, prediction["label"])
        for (_, label), prediction in zip(TEST_ROWS, predictions, strict=True)
    ]
    classes = {label: of_class(label, pairs) for label in LABELS}
    return {
        "examples": len(TEST_ROWS),
        "loss": -sum(
            math.log(row["probabilities"][label]) for (_, label), row in zip(TEST_ROWS, predictions)
        )
        / 301,
        "accuracy": sum(truth == guess for truth, guess in pairs) / 301,
        "macro_f1": sum(row["f1"] for row in classes.values()) / len(classes),
        "classes": classes,
    }


def of_class(label, pairs) -> dict:
    right = sum(truth == guess == label for truth, guess in pairs)
    guessed, there = (
        sum(guess == label for _, guess in pairs),
        sum(truth == label for truth, _ in pairs),
    )
    precision, recall = right / guessed if guessed else 0.0, right / there
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "examples": there}


def test_the_metrics_are_those_counted_by_hand(report, expected):
    for label in LABELS:
        assert report["classes"][label] == pytest.approx(expected["classes"][label], rel=1e-12)
    assert report["examples"] == expected["examples"]
    assert report["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for name in ("accuracy", "macro_f1"):
        assert report[name] == pytest.approx(expected[name], rel=1e-12)
    assert (
        0.4 < report["accuracy"] < 1
    )  # Else the classes are not separated, and nothing is tested.


@pytest.mark.parametrize(
    "flags, patches",
    [
        ([], {"trainer.evaluate.ROWS_PER_BATCH": 7}),
        ([], {"trainer.evaluate.ROWS_PER_BATCH": 1000}),
        ([], {"trainer.data.pipeline.EVALUATION_BYTES": 1}),
        (["--devices=2"], {}),
        (["--devices=2"], {"trainer.data.pipeline.EVALUATION_BYTES": 1}),
    ],
    ids=["batches of 7", "one batch", "a row in each batch", "two devices", "a row for each"],
)
def test_batch_size_and_number_of_devices_change_no_metric(folder, report, flags, patches):
    assert approximately(evaluate(folder, *flags, patches=patches)) == approximately(report)


def approximately(report: dict) -> dict:
    return {
        name: {label: tuple(row.values()) for label, row in value.items()}
        if name == "classes"
        else pytest.approx(value, rel=1e-6)
        if name == "loss"
        else value
        for name, value in report.items()
    }


def test_the_text_form_has_the_same_metrics(folder, report):
    answer = commands.call("evaluate", f"--model_dir={folder / 'model'}")
    metrics = dict(line.split() for line in answer.lines[:6])
    assert (
        metrics["split"] == "test"
        and int(metrics["step"]) == report["step"]
        and int(metrics["examples"]) == 301
    )
    for name in ("loss", "accuracy", "macro_f1"):
        assert float(metrics[name]) == pytest.approx(report[name], rel=1e-3)
    assert answer.lines[6].split() == ["class", "precision", "recall", "f1", "examples"]
    for line, label in zip(answer.lines[7:], LABELS, strict=True):
        words = line.removeprefix(label).split()
        row = report["classes"][label]
        assert words == [
            f"{row['precision']:.4f}",
            f"{row['recall']:.4f}",
            f"{row['f1']:.4f}",
            str(row["examples"]),
        ]


def test_the_best_checkpoint_is_evaluated_by_default(folder, report):
    [best] = [
        int(path.name.removeprefix("step-")) for path in (folder / "model" / "best").glob("step-*")
    ]
    assert best < 30
    assert report["step"] == evaluate(folder, "--checkpoint=best")["step"] == best
    assert evaluate(folder, "--checkpoint=newest")["step"] == 30


def test_each_split_has_its_own_rows(folder):
    assert [
        evaluate(folder, f"--split={name}")["examples"] for name in ("train", "validation")
    ] == [200, 50]


def test_a_damaged_best_checkpoint_is_an_error(folder, tmp_path):
    model = shutil.copytree(folder / "model", tmp_path / "model")
    [manifest] = (model / "best").glob("step-*/MANIFEST.json")
    manifest.unlink()
    answer = commands.call("evaluate", f"--model_dir={model}")
    assert (answer.code, answer.out) == (3, "") and "MANIFEST.json is missing" in answer.err
    assert commands.call("evaluate", f"--model_dir={model}", "--checkpoint=newest").code == 0


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_a_changed_configuration_is_refused_and_can_be_deleted(folder, tmp_path, name):
    model = shutil.copytree(folder / "model", tmp_path / "model")
    path, asked = model / "config.json", [name, f"--model_dir={model}", "a", "robot"]
    asked = asked[:2] if name == "evaluate" else asked
    expected = commands.call(*asked)
    path.write_text(path.read_text().replace('"max_length": 10', '"max_length":  0'))
    answer = commands.call(*asked)
    assert (answer.code, answer.out) == (3, "") and f"{path} cannot be read" in answer.err
    assert "Delete the file, then it is read from" in answer.err
    path.unlink()
    assert commands.call(*asked).out == expected.out


def test_a_dataset_may_move_but_not_be_another(folder, tmp_path):
    moved = shutil.copytree(folder / "data", tmp_path / "moved")
    assert evaluate(folder, f"--data_dir={moved}")["examples"] == 301
    classifier.write_csv(tmp_path / "other.csv", classifier.sentences(200, seed=9))
    classifier.run(
        "prepare",
        f"--raw_data={tmp_path / 'other.csv'}",
        f"--data_dir={tmp_path / 'other'}",
        "--test_fraction=0.2",
    )
    answer = commands.call(
        "evaluate", f"--model_dir={folder / 'model'}", f"--data_dir={tmp_path / 'other'}"
    )
    assert answer.code == 2 and "its inputs would mean something else" in answer.err


@pytest.mark.parametrize(
    "folders, flags, message",
    [
        (["checkpoints", "best"], [], "holds no checkpoint yet"),
        (["best"], ["--checkpoint=best"], "has no best checkpoint"),
    ],
)
def test_a_checkpoint_that_is_missing_is_named(folder, tmp_path, folders, flags, message):
    model = shutil.copytree(folder / "model", tmp_path / "model")
    for name in folders:
        shutil.rmtree(model / name)
    answer = commands.call("evaluate", f"--model_dir={model}", *flags)
    assert (answer.code, answer.out) == (2, "") and message in answer.err


def test_a_split_that_is_missing_is_named(tmp_path):
    classifier.write_csv(tmp_path / "rows.csv", classifier.sentences(50, seed=4))
    classifier.run(
        "prepare", f"--raw_data={tmp_path / 'rows.csv'}", f"--data_dir={tmp_path / 'data'}"
    )
    classifier.run(
        "train",
        f"--data_dir={tmp_path / 'data'}",
        f"--model_dir={tmp_path / 'model'}",
        "--steps=1",
        "--units=2",
        "--jit=off",
        "--threads=2",
        "--shards=1",
    )
    answer = commands.call("evaluate", f"--model_dir={tmp_path / 'model'}")
    assert (answer.code, answer.out) == (2, "")
    assert "--split=test: the dataset" in answer.err and "has train" in answer.err


# --- what a training run evaluates ----------------------------------------------------------------


def evaluator(*splits, **flags) -> evaluate_module.Evaluator | None:
    """The evaluator of a run on a dataset with these splits."""
    dataset = types.SimpleNamespace(
        splits=dict.fromkeys(splits, "its rows"),
        task="classification",
        input=fields.TOKENS,
        target=fields.LABEL,
    )
    config = configuration.from_flat(flags)
    placement = types.SimpleNamespace(workers=1, replicas=1)
    return evaluate_module.Evaluator.of_run(config, dataset, None, placement)


@pytest.fixture
def no_step(monkeypatch):
    monkeypatch.setattr(evaluate_module, "EvaluationStep", lambda *_: None)
    monkeypatch.setattr(pipeline, "evaluation_batches", lambda *_: None)


@pytest.mark.parametrize(
    "splits, flags, split",
    [
        (("train", "validation", "test"), {}, "validation"),
        (("train", "test"), {}, "test"),
        (("train", "validation", "test"), {"eval_split": "train"}, "train"),
        (("train", "validation"), {"early_stop_patience": 2}, "validation"),
    ],
)
def test_a_run_evaluates_its_validation_split_by_default(no_step, splits, flags, split):
    assert evaluator(*splits, **flags).split == split


@pytest.mark.parametrize(
    "splits, flags", [(("train",), {}), (("train", "validation"), {"eval_steps": -1})]
)
def test_a_run_without_evaluations_has_no_evaluator(no_step, splits, flags):
    assert evaluator(*splits, **flags) is None


@pytest.mark.parametrize(
    "splits, flags, message",
    [
        (("train",), {"eval_split": "test"}, "--eval_split=test: the dataset has train."),
        (("train", "test"), {"early_stop_patience": 2}, "needs a validation split"),
        (("train",), {"early_stop_patience": 2}, "needs a validation split"),
        (("train", "test"), {"early_stop_patience": 2, "eval_steps": -1}, "needs evaluations"),
    ],
)
def test_a_split_that_cannot_serve_is_refused(no_step, splits, flags, message):
    with pytest.raises(UsageError, match=message):
        evaluator(*splits, **flags)


# --- translations ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def translating(tmp_path_factory):
    dataset = small_models.some_pairs(tmp_path_factory.mktemp("pairs"))
    return small_models.a_model(dataset, cell="gru")


@pytest.mark.skipif(not bleu.is_installed(), reason=bleu.INSTALL)
def test_a_translation_has_the_quality_of_its_search(translating, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_module.trained_model, "open_model", lambda *_: translating)
    reports = {}
    for beam in (1, 3):
        settings = Evaluate(split="test", format="json", beam=beam)
        evaluate_module.command(settings)
        reports[beam] = json.loads(capsys.readouterr().out)
        translations = Translations(
            translating.step,
            translating.dataset,
            "test",
            translating.config.input,
            beam=beam,
            penalty=1.0,
        )
        quality = translations.quality(translating.weights)
        assert {name: reports[beam][name] for name in quality._fields} == quality._asdict()
    assert reports[1]["loss"] == reports[3]["loss"]
    assert reports[1]["bleu"] != reports[3]["bleu"] or reports[1]["chrf"] != reports[3]["chrf"]
    assert reports[1]["tokens"] == len(translating.dataset.splits["test"].targets)


@pytest.fixture
def without_sacrebleu(monkeypatch):
    monkeypatch.setattr(bleu, "is_installed", lambda: False)


def test_without_sacrebleu_a_translation_is_not_evaluated(
    translating, without_sacrebleu, monkeypatch
):
    monkeypatch.setattr(evaluate_module.trained_model, "open_model", lambda *_: translating)
    with pytest.raises(UsageError, match="--model_dir=m: .*pip install"):
        evaluate_module.command(Evaluate(model_dir="m", split="test"))


def of_translating_run(model, **flags):
    """Returns the evaluator of a run that learns what `model` learned."""
    config = configuration.from_flat({"eval_split": "test", "best_metric": "loss", **flags})
    return evaluate_module.Evaluator.of_run(
        config, model.dataset, model.network, model.step.placement
    )


def test_without_sacrebleu_a_run_evaluates_all_but_translations(
    translating, without_sacrebleu, caplog
):
    assert of_translating_run(translating).translations is None
    [record] = caplog.records
    assert "no BLEU and chrF" in record.getMessage() and bleu.INSTALL in record.getMessage()
    caplog.clear()
    assert of_translating_run(translating, translate_examples=0).translations is None
    assert not caplog.records


def test_a_best_metric_that_nothing_computes_is_refused(translating, without_sacrebleu):
    with pytest.raises(UsageError, match="--best_metric=bleu: .*pip install"):
        of_translating_run(translating, best_metric="bleu")


@pytest.mark.skipif(not bleu.is_installed(), reason=bleu.INSTALL)
def test_a_best_metric_of_translations_needs_some(translating):
    with pytest.raises(UsageError, match="--translate_examples=0 asks for none"):
        of_translating_run(translating, best_metric="chrf", translate_examples=0)


@pytest.mark.skipif(not bleu.is_installed(), reason=bleu.INSTALL)
def test_a_run_translates_the_first_examples_while_it_trains(translating):
    evaluator = of_translating_run(translating, translate_examples=3)
    found = evaluator.metrics(translating.weights, lambda: False, view=None)
    assert {"loss", "bleu", "chrf"} <= found.metrics().keys()
    first = Translations(
        translating.step,
        translating.dataset,
        "test",
        translating.config.input,
        beam=1,
        penalty=1.0,
        examples=3,
    )
    assert found.quality == first.quality(translating.weights)


# --- batches --------------------------------------------------------------------------------------


DATASET = types.SimpleNamespace(order=fields.SHUFFLED, labels=("bad", "good"))


class ThreeBatches:
    """Batches of two rows, of which the last has one row that counts."""

    def __iter__(self):
        for first, real in ((0, 2), (2, 2), (4, 1)):
            numbers = np.array([0, 1], np.int32)
            batch = pipeline.Batch(numbers, np.ones([2, 3], np.int32), numbers + 3, targets=numbers)
            yield batch, np.arange(first, first + real), real


class Step:
    """Is right about every row, with a loss of 1; a row that only fills a batch costs 100."""

    task = table.TASKS["classification"]

    def __init__(self):
        self.batches = 0

    def placed(self, weights):
        return weights

    def outcomes_of_chunk(self, weights, batch, carry):
        self.batches += 1
        losses = np.array([1.0, 100.0 if self.batches == 3 else 1.0])
        return losses, np.array([[0.9, 0.1], [0.2, 0.8]]), carry


def test_rows_that_fill_the_last_batch_do_not_count():
    seen = []

    def view(examples, batch, losses, answers):
        assert len(examples) == len(batch.inputs) == len(losses) == len(answers)
        seen.extend(zip(examples, batch.targets))

    found = evaluate_module.metrics(Step(), {}, DATASET, ThreeBatches(), view=view)
    assert (found.examples, found.loss, found.accuracy) == (5, 1.0, 1.0)
    assert seen == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]


def test_an_evaluation_that_is_abandoned_has_no_metrics():
    answers = iter([False, False, True])
    step = Step()
    found = evaluate_module.metrics(step, {}, DATASET, ThreeBatches(), lambda: next(answers))
    assert found is None
    assert step.batches == 2


def test_values_are_printed_with_the_digits_of_their_size():
    row = {"rmse": 12345.678, "mae": 1.234567e-5, "r2": 0.25}
    report = {"split": "test", "rmse": 12345.678, "values": {"mass": row}}
    lines = evaluate_module.as_text(report).splitlines()
    assert lines[1] == "rmse 12346"
    assert [line.split() for line in lines[2:]] == [
        ["value", "rmse", "mae", "r2"],
        ["mass", "12346", "1.235e-05", "0.2500"],
    ]


def test_a_label_cannot_control_the_terminal():
    row = {"precision": 1.0, "support": 2}
    report = {"split": "test", "loss": 0.5, "classes": {"a\x1b[2J\nb": row, "\x9bc": row}}
    lines = evaluate_module.as_text(report).splitlines()
    assert [line.split()[0] for line in lines[3:]] == [r"a\x1b[2J\nb", r"\x9bc"]
    assert lines[3].index("1.0000") == lines[4].index("1.0000")
