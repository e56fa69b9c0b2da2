"""What every task must satisfy; a task without an entry in `CASES` fails."""

import ast
import dataclasses
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainer
from tests.tasks.tagging_test import bio_spans
from trainer import evaluate
from trainer.data import fields
from trainer.data.pipeline import Batch, Sentences
from trainer.data.store import Dataset, Split
from trainer.exit_codes import UsageError
from trainer.flags import run as config
from trainer.flags.knobs import as_given
from trainer.flags.tasks import TASKS
from trainer.flags.use import Predict
from trainer.models.heads import StepOutputs
from trainer.models.networks import Network
from trainer.tasks import bleu, table

ROWS, LENGTH, WIDTH = 40, 6, 3
PARTS = [slice(0, 7), slice(7, 8), slice(8, ROWS)]
GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(1, LENGTH + 1, ROWS).astype(np.int32)
HOLDS = np.arange(LENGTH) < LENGTHS[:, None]
INPUTS = np.where(HOLDS, GENERATOR.integers(1, 9, (ROWS, LENGTH)), 0).astype(np.int32)
LABELS = ("O", "B-a", "I-a", "B-b")


def batch_of(targets):
    return Batch(np.arange(ROWS, dtype=np.int32), INPUTS, LENGTHS, targets.astype(np.int32))


def step_outputs(outputs):
    """Random scores of each step, with weights in the shape of a dense layer's kernel."""
    states = GENERATOR.normal(size=(ROWS, LENGTH, WIDTH))
    weights, bias = GENERATOR.normal(size=(WIDTH, outputs)), GENERATOR.normal(size=outputs)
    return StepOutputs(states, weights, bias, transposed=True)


def costs_of(scores, targets):
    """The cross-entropy of each example or step, from its definition."""
    odds = np.exp(scores)
    shares = odds / odds.sum(axis=-1, keepdims=True)
    return -np.log(np.take_along_axis(shares, targets[..., None], axis=-1)[..., 0])


def of_rows(logits, batch):
    """(costs, predictions, targets) of what counts: the rows."""
    return costs_of(logits, batch.targets), logits.argmax(axis=-1), batch.targets


def of_steps(outputs, batch):
    """(costs, predictions, targets) of what counts: the steps that are no padding."""
    scores = outputs.states @ outputs.weights + outputs.bias
    holds = np.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
    found = costs_of(scores, batch.targets), scores.argmax(axis=-1), batch.targets
    return tuple(values[holds] for values in found)


def of_targets(outputs, batch):
    """(costs, predictions, targets) of what counts: the words of the targets."""
    told = batch._replace(
        inputs=batch.targets.tokens, lengths=batch.targets.lengths, targets=batch.targets.following
    )
    return of_steps(outputs, told)


def of_values(outputs, batch):
    """(costs, predictions, targets) of what counts: the rows, and no prediction is a class."""
    return ((outputs - batch.targets) ** 2).mean(axis=1), outputs, batch.targets


def macro_f1(predictions, targets):
    both = [
        (2 * ((predictions == k) & (targets == k)).sum(), (predictions == k).sum() + there)
        for k in range(len(LABELS))
        if (there := (targets == k).sum()) or (predictions == k).any()
    ]
    return np.mean([right / all_ for right, all_ in both])


def accuracy(predictions, targets):
    return {"accuracy": (predictions == targets).mean()}


def classification_metrics(outputs, batch, costs, predictions, targets):
    return {"macro_f1": macro_f1(predictions, targets), **accuracy(predictions, targets)}


def regression_metrics(outputs, batch, costs, predictions, targets):
    errors = predictions - targets
    around = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    return {
        "rmse": np.sqrt((errors**2).mean(axis=0)).mean(),
        "mae": np.abs(errors).mean(),
        "r2": (1 - (errors**2).sum(axis=0) / around).mean(),
    }


def language_model_metrics(outputs, batch, costs, predictions, targets):
    more = accuracy(predictions, targets)
    return {"perplexity": np.exp(costs.mean()), "bits": np.log2(np.exp(costs.mean())), **more}


def tagging_metrics(outputs, batch, costs, predictions, targets):
    guessed, there, cuts = set(), set(), np.cumsum(batch.lengths)[:-1]
    for found, tags in ((guessed, predictions), (there, targets)):
        for row, of_row in enumerate(np.split(tags, cuts)):
            found |= {(row, *span) for span in bio_spans([LABELS[tag] for tag in of_row])}
    f1 = 2 * len(guessed & there) / (len(guessed) + len(there))
    more = accuracy(predictions, targets)
    return {"macro_f1": macro_f1(predictions, targets), "span_f1": f1, **more}


@dataclasses.dataclass
class Case:
    """One evaluation of a task. counted: the NumPy twin of what counts. more: of its metrics beside
    the loss. features: of its frames, 0 if its inputs are tokens.
    """

    outputs: Any
    batch: Batch
    counted: Callable
    more: Callable
    features: int = 0

    def part(self, rows):
        """The case of some of the rows."""
        outputs = (
            self.outputs._replace(states=self.outputs.states[rows])
            if isinstance(self.outputs, StepOutputs)
            else self.outputs[rows]
        )
        batch = tf.nest.map_structure(lambda values: values[rows], self.batch)
        return dataclasses.replace(self, outputs=outputs, batch=batch)


def with_targets(batch, output):
    """The batch with the same output as every target."""
    if isinstance(batch.targets, Sentences):
        following = np.full_like(batch.targets.following, output)
        return batch._replace(targets=batch.targets._replace(following=following))
    return batch._replace(targets=np.full_like(batch.targets, output))


CASES = {
    "classification": Case(
        GENERATOR.normal(0, 3, (ROWS, 4)),
        batch_of(GENERATOR.integers(0, 4, ROWS)),
        of_rows,
        classification_metrics,
    ),
    "regression": Case(
        GENERATOR.normal(0, 3, (ROWS, 2)),
        batch_of(np.zeros(ROWS))._replace(
            inputs=np.where(HOLDS[:, :, None], GENERATOR.normal(size=(ROWS, LENGTH, 5)), 0),
            targets=GENERATOR.normal(size=(ROWS, 2)),
        ),
        of_values,
        regression_metrics,
        features=5,
    ),
    "language_model": Case(
        step_outputs(9),
        batch_of(np.where(HOLDS, GENERATOR.integers(0, 9, (ROWS, LENGTH)), 0)),
        of_steps,
        language_model_metrics,
    ),
    "tagging": Case(
        step_outputs(4),
        batch_of(np.where(HOLDS, GENERATOR.integers(0, 4, (ROWS, LENGTH)), 0)),
        of_steps,
        tagging_metrics,
    ),
    "translation": Case(
        step_outputs(9),
        # Each target is as long as the source of another row.
        batch_of(np.zeros(ROWS))._replace(
            targets=Sentences(
                INPUTS[::-1],
                np.where(HOLDS, GENERATOR.integers(1, 9, (ROWS, LENGTH)), 0).astype(np.int32)[::-1],
                LENGTHS[::-1],
            )
        ),
        of_targets,
        language_model_metrics,
    ),
}
# An empty mapping, which a task without such flags may have.
MAY_BE_EMPTY = {"refused"}


def as_tensors(outputs):
    return tf.nest.map_structure(
        lambda values: tf.constant(values) if isinstance(values, np.ndarray) else values, outputs
    )


def sums_of(task, case, **options):
    found = task.training_sums(as_tensors(case.outputs), case.batch, **options)
    return {name: float(value) for name, value in found.items()}


def outcomes_of(task, case):
    return [value.numpy() for value in task.outcomes(as_tensors(case.outputs), case.batch)]


def exact_of(task, case):
    return task.exact_metrics.of(*outcomes_of(task, case), case.batch, LABELS)


def expected(case):
    """The metrics of the case, from NumPy."""
    costs, predictions, targets = case.counted(case.outputs, case.batch)
    return {
        "loss": costs.mean(),
        **case.more(case.outputs, case.batch, costs, predictions, targets),
    }


every_task = pytest.mark.parametrize("task", table.TASKS.values(), ids=lambda task: task.name)


# --- The record -----------------------------------------------------------------------------------


def test_every_task_has_metrics_with_a_direction_and_a_case_here():
    assert set(table.TASKS) == set(TASKS) == set(CASES)
    directions = {better for metrics in TASKS.values() for better in metrics.values()}
    assert directions == {"lower", "higher"}


def test_this_file_uses_every_field_of_the_record():
    used = set(re.findall(r"\btask\.(\w+)", inspect.getsource(sys.modules[__name__])))
    assert {field.name for field in dataclasses.fields(table.Task)} <= used


@every_task
def test_a_task_has_all_of_its_parts(task):
    for field in dataclasses.fields(task):
        assert field.default is dataclasses.MISSING, f"{field.name} could be left out"
        assert getattr(task, field.name) or field.name in MAY_BE_EMPTY, field.name
    assert task is table.TASKS[task.name]
    assert task.target in fields.TARGETS.values()
    assert set(task.inputs) <= set(fields.INPUTS.values())
    assert re.fullmatch("[a-z]+s", task.counts)  # It is part of `examples_per_second`.


def test_no_other_module_distinguishes_tasks_by_name():
    """`flags` has their names, `prepare` makes their datasets, format 1 of a dataset has none.

    A translation is also what an answer holds.
    """
    knows = {"flags/tasks.py", "flags/prepare.py", "tasks/table.py", "data/store.py"}
    knows |= {"tasks/translator.py", "export/expected.py"}
    root = pathlib.Path(trainer.__file__).parent
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        if name in knows or name.startswith("prepare/"):
            continue
        constants = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not constants & set(table.TASKS), name


GIVEN = config.from_flat({"regression_loss": "huber"})


@every_task
def test_the_task_of_a_dataset_is_the_one_it_was_prepared_for(task):
    scale = fields.Scale(np.float32([5]), np.float32([2]))
    dataset = types.SimpleNamespace(
        task=task.name, input=task.inputs[0], standardise=scale, values=("stars",)
    )
    bound = task.bound(dataset, GIVEN)
    found = table.task_of(dataset, GIVEN)
    assert found == dataclasses.replace(task, **{name: getattr(found, name) for name in bound})
    assert bool(bound) == task.target.numbers


def test_a_regression_knows_its_loss_and_the_units_of_its_values():
    task, case = table.TASKS["regression"], CASES["regression"]
    scale = fields.Scale(np.float32([5, 0]), np.float32([2, 100]))
    dataset = types.SimpleNamespace(
        task=task.name, input=fields.FRAMES, standardise=scale, values=("stars", "mass")
    )
    bound = table.task_of(dataset, GIVEN)
    errors = np.abs(case.outputs - case.batch.targets)
    huber = np.where(errors <= 1, errors**2 / 2, errors - 0.5).mean(axis=1)
    losses, _ = outcomes_of(bound, case)
    np.testing.assert_allclose(losses, huber, rtol=1e-12)
    found = exact_of(bound, case)
    assert list(found.report()["values"]) == ["stars", "mass"]
    wanted = {"loss": huber.mean(), "mae": (errors * [2, 100]).mean()}
    assert bound.metrics(sums_of(bound, case)) == pytest.approx(wanted, rel=1e-12)
    assert {name: found.metrics()[name] for name in wanted} == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name, read", [("parsing", fields.TOKENS), ("tagging", fields.FRAMES)])
def test_a_dataset_of_another_versions_task_is_refused(name, read):
    dataset = types.SimpleNamespace(task=name, input=read, folder="words")
    told = f"words was prepared for {name} of {read.kind}, and this version"
    with pytest.raises(UsageError, match=told):
        table.task_of(dataset, GIVEN)


def test_format_1_of_a_dataset_is_classification():
    dataset = Dataset(pathlib.Path("words"), {"format": 1}, "", (), (), {})
    assert table.task_of(dataset, GIVEN) == table.TASKS["classification"]


@every_task
def test_what_a_task_serves_answers_and_can_be_saved(task):
    """What the answers are is tested in `serving_test` and in `tests/export`."""
    assert {"options", "between", "answers", "shown", "signatures"} <= set(dir(task.served))
    reads = getattr(task.served, "reads", None)  # What can read several kinds has it of a dataset.
    assert reads is None if len(task.inputs) > 1 else task.inputs == (reads,)
    assert task.served.options <= {field.name for field in dataclasses.fields(Predict)}
    assert task.served.options <= table.OPTIONS
    assert keras.activations.get(task.keras_activation)


# --- Sums and metrics -----------------------------------------------------------------------------


@every_task
def test_the_sums_of_a_step_are_those_that_the_task_names_and_those_of_numpy(task):
    case = CASES[task.name]
    assert {table.LOSS_SUM, table.COUNT} <= set(task.sums)
    found = sums_of(task, case)
    assert list(found) == list(task.sums)
    costs, predictions, targets = case.counted(case.outputs, case.batch)
    twin = {
        "loss_sum": costs.sum(),
        "correct": (predictions == targets).sum(),
        "absolute": np.abs(predictions - targets).sum() / np.size(predictions[0]),
        "count": len(costs),
    }
    assert found == pytest.approx({name: twin[name] for name in task.sums}, rel=1e-12)


@every_task
def test_the_type_of_a_sum_over_an_epoch_loses_no_count(task):
    for name, dtype in task.sums.items():
        counts = name in (table.COUNT, "correct")
        assert dtype == (tf.int64 if counts else tf.float64), name


@pytest.mark.parametrize(
    "task",
    [task for task in table.TASKS.values() if "label_smoothing" not in task.refused],
    ids=lambda task: task.name,
)
@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing_spreads_a_share_of_the_target_over_all_outputs(task, smoothing):
    case = CASES[task.name]
    _, _, targets = case.counted(case.outputs, case.batch)
    outputs = (
        case.outputs.bias.size if isinstance(case.outputs, StepOutputs) else case.outputs.shape[-1]
    )
    costs = [  # of each possible target
        case.counted(case.outputs, with_targets(case.batch, output))[0] for output in range(outputs)
    ]
    wanted = np.sum(
        (1 - smoothing) * np.choose(targets, costs) + smoothing * np.mean(costs, axis=0)
    )
    found = sums_of(task, case, smoothing=smoothing)
    assert found["loss_sum"] == pytest.approx(wanted, rel=1e-12)
    plain = sums_of(task, case)
    assert [found[name] for name in ("correct", "count")] == [plain["correct"], plain["count"]]


@every_task
def test_sums_and_exact_metrics_add_up_over_any_split_of_the_rows(task):
    case = CASES[task.name]
    parts = [case.part(rows) for rows in PARTS]
    sums = [sums_of(task, part) for part in parts]
    together = {name: sum(part[name] for part in sums) for name in task.sums}
    assert together == pytest.approx(sums_of(task, case), rel=1e-12)
    one, two, three = (exact_of(task, part) for part in parts)
    whole = exact_of(task, case).metrics()
    assert (one + two + three).metrics() == pytest.approx(whole, rel=1e-12)
    assert (three + (two + one)).metrics() == pytest.approx(whole, rel=1e-12)


@every_task
def test_exact_metrics_are_those_of_numpy_and_those_that_the_configuration_names(task):
    case = CASES[task.name]
    exact = exact_of(task, case).metrics()
    # Those of whole texts come from what a network makes by itself.
    assert set(exact) == set(TASKS[task.name]) - set(bleu.METRICS)
    assert exact == pytest.approx(expected(case), rel=1e-12)
    assert all(type(value) is float for value in exact.values())


@every_task
def test_the_metrics_of_training_steps_are_exact_ones_of_the_same_rows(task):
    """Without smoothing and class weights."""
    case = CASES[task.name]
    exact, training = exact_of(task, case).metrics(), task.metrics(sums_of(task, case))
    assert training
    assert training == pytest.approx({metric: exact[metric] for metric in training}, rel=1e-12)


@every_task
def test_outcomes_have_a_row_for_each_row_and_travel_in_one_array(task):
    losses, answers = outcomes_of(task, CASES[task.name])
    assert losses.shape == (ROWS,) and answers.ndim == 2 and len(answers) == ROWS
    assert losses.dtype == answers.dtype == np.float64


@every_task
def test_a_report_has_the_metrics_and_tables_with_a_heading(task):
    report = exact_of(task, CASES[task.name]).report(LABELS)
    assert exact_of(task, CASES[task.name]).metrics().items() <= report.items()
    assert report[task.counts] == sums_of(task, CASES[task.name])["count"]
    for name, value in report.items():
        assert isinstance(value, (int, float)) or name in evaluate._HEADINGS, name
    text = evaluate.as_text(evaluate.as_report("test", 3, exact_of(task, CASES[task.name]), LABELS))
    assert text.splitlines()[:2] == ["split test", "step 3"]


# --- Networks -------------------------------------------------------------------------------------


@every_task
def test_padding_plays_no_part_in_what_a_network_is_worth(task):
    """With the head of the task, and with weights of the size that a dataset asks for."""
    case = CASES[task.name]
    several = isinstance(case.outputs, StepOutputs)
    outputs = case.outputs.bias.size if several else case.outputs.shape[-1]
    settings = config.Model(cell="gru", units=(3,), embedding_size=2)
    second = "own" if task.target.sequence else ""
    network = Network(
        settings,
        9,
        outputs,
        precision="float64",
        jit="on",
        head=task.head,
        second=second,
        frame=(case.features,) if case.features else (),
    )
    weights = network.initial_weights()

    def pad(values):
        steps = values.ndim > 1 and values.shape[1] == LENGTH
        return np.pad(values, [(0, 0), (0, 2), (0, 0)][: values.ndim]) if steps else values

    padded = tf.nest.map_structure(pad, case.batch)
    found = []
    for batch in (case.batch, padded):
        read = tf.nest.map_structure(tf.constant, batch)
        made, _ = network.outputs(weights, read.inputs, read.lengths, targets=read.targets)
        found.append(
            (
                {name: float(value) for name, value in task.training_sums(made, batch).items()},
                task.exact_metrics.of(
                    *(value.numpy() for value in task.outcomes(made, batch)), batch, LABELS
                ).metrics(),
            )
        )
    (sums, metrics), (sums_padded, metrics_padded) = found
    assert sums_padded == pytest.approx(sums, rel=1e-12)
    assert metrics_padded == pytest.approx(metrics, rel=1e-12)


# --- Views ----------------------------------------------------------------------------------------


class Written:
    """Notes what is written: [(kind, tag, step)]."""

    def __init__(self):
        self.calls = []

    def image(self, tag, pixels, step):
        assert pixels.dtype == np.uint8
        self.calls.append(("image", tag, step))

    def text(self, tag, markdown, step):
        self.calls.append(("text", tag, step))

    def pr_curve(self, tag, labels, predictions, step):
        self.calls.append(("curve", tag, step))


class InMemory(Dataset):
    """A dataset without files."""

    def target_texts(self, split):
        return ["w5 w6"] * ROWS


@every_task
def test_a_view_takes_the_outcomes_of_each_batch_and_writes_at_the_step(task):
    case, written = CASES[task.name], Written()
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    split = Split(case.batch.inputs[HOLDS], offsets, case.batch.targets)
    words = tuple(f"w{i}" for i in range(9))
    description = {"tokenizer": {"name": "spaces"}}
    if case.features:
        value = {"mean": 0.0, "deviation": 1.0}
        description = {
            "input": {"kind": "frames", "shape": [case.features]},
            "values": [{"name": name, **value} for name in ("stars", "mass")],
        }
    dataset = InMemory(pathlib.Path("words"), description, "", LABELS, words, {"test": split})
    view = task.view(dataset, "test")
    for rows in PARTS:
        part = case.part(rows)
        view(np.arange(ROWS)[rows], part.batch, *outcomes_of(task, part))
    served = types.SimpleNamespace(
        sample=lambda seed: f"text of seed {seed}", explained=lambda split, examples: []
    )
    view.write(written, 7, exact_of(task, case), lambda: served)
    assert {step for _, _, step in written.calls} <= {7}


# --- Flags ----------------------------------------------------------------------------------------

REFUSED = [(task, flag) for task in table.TASKS.values() for flag in task.refused]
OTHER = {
    "padding": "pre",
    "pooling": "max",
    "bidirectional": True,
    "class_weights": "balanced",
    "tied_embedding": True,
    "one_hot": True,
    "attention": "dot",
    "translate_examples": 5,
    "regression_loss": "huber",
    "label_smoothing": 0.1,
    "word_dropout": 0.1,
    "frame_encoder": "dense",
}


@pytest.mark.parametrize("task, flag", REFUSED, ids=lambda value: getattr(value, "name", value))
def test_a_flag_that_fits_no_such_run_is_refused_with_its_reason(task, flag):
    default, why = task.refused[flag]
    assert default == config.fields()[flag].default != OTHER[flag]
    with pytest.raises(UsageError) as refusal:
        task.settled(config.from_flat({flag: OTHER[flag]}))
    message = str(refusal.value)
    assert message.startswith(
        f"{as_given(flag, OTHER[flag])}: the dataset is one of {task.name}, and {why}."
    )


@pytest.mark.parametrize(
    "frame, refused", [((28,), table.REFUSED_OF_FRAMES), ((), table.REFUSED_OF_TOKENS)]
)
def test_a_flag_that_fits_no_such_inputs_is_refused_with_its_reason(frame, refused):
    task, kind = table.TASKS["classification"], "frames" if frame else "tokens"
    for flag, (default, why) in refused.items():
        assert default == config.fields()[flag].default != OTHER[flag]
        given = config.from_flat({flag: OTHER[flag]})
        with pytest.raises(
            UsageError, match=f"^--{flag}(=.*)?: the dataset is one of {kind}, and "
        ):
            task.settled(given, frame)
        assert task.settled(given, () if frame else (28,))
        assert why


@every_task
def test_settling_fills_in_the_first_metric_and_changes_nothing_else(task):
    given = config.from_flat({"units": (3,)})
    first = next(iter(TASKS[task.name]))
    assert task.settled(given) == config.replace(given, best_metric=first)
    assert task.settled(task.settled(given)) == task.settled(given)


@every_task
def test_each_metric_of_the_task_may_choose_the_best_checkpoint_and_no_other(task):
    known = {metric for metrics in TASKS.values() for metric in metrics}
    for metric in known:
        given = config.from_flat({"best_metric": metric})
        if metric in TASKS[task.name]:
            assert task.settled(given) == given
        else:
            with pytest.raises(UsageError, match=f"--best_metric={metric}: is no metric of "):
                task.settled(given)


def test_the_help_of_best_metric_names_the_default_of_each_task():
    words = config.fields()["best_metric"].metadata["help"]
    for task in table.TASKS.values():
        assert task.best_metric in words
