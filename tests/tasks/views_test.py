import dataclasses
import html
import re
import types

import numpy as np
import pytest
from tensorboard import plugin_util
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from tests import datasets
from trainer.data import text
from trainer.data.pipeline import Batch
from trainer.reporting.summaries import Summaries
from trainer.tasks import views
from trainer.tasks.classification import Metrics
from trainer.tasks.translator import Explained

TEXTS = [[1, 4, 5], [1, 6], [1, 7, 8], [1, 9]]
LABELS = np.array([0, 1, 1, 0], np.int32)
PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]])


def batch_of(labels):
    return Batch(None, None, None, np.asarray(labels, np.int32))


@pytest.fixture
def written(tmp_path):
    """The event file of one evaluation of four examples, two of them mistaken, shown in two
    batches.
    """
    dataset = datasets.write(
        tmp_path / "data", {"test": (TEXTS, LABELS)}, vocabulary_size=12, classes=2
    )
    losses = -np.log(PROBABILITIES[np.arange(4), LABELS])
    view = views.ClassesView(dataset, "test")
    for rows in ([3, 0], [1, 2]):
        view(np.array(rows), batch_of(LABELS[rows]), losses[rows], PROBABILITIES[rows])
    summaries = Summaries(tmp_path / "events", attempt=1, restored_step=0)
    view.write(summaries, 7, Metrics.of(losses, PROBABILITIES, batch_of(LABELS)), None)
    summaries.close()
    return EventAccumulator(str(tmp_path / "events")).Reload()


def test_an_evaluation_shows_confusion_curve_and_mistakes(written):
    tags = written.Tags()
    assert tags["images"] == ["confusion"]
    assert {"class1/pr_curves", "mistakes"} <= set(tags["tensors"])


def test_the_costliest_mistake_comes_first_with_its_text(written):
    [event] = written.Tensors("mistakes")
    shown = tensor_util.make_ndarray(event.tensor_proto).item().decode()
    assert event.step == 7
    assert shown.splitlines() == [
        "1. **class0**, taken for **class1** at 0.900, loss 2.303: w9",
        "1. **class1**, taken for **class0** at 0.600, loss 0.916: w6",
    ]


@pytest.mark.parametrize(
    "settings, shown",
    [
        ({"name": "words"}, "a ￭, b (￭ 1 &lt;￭"),
        ({"name": "spaces"}, "a ￭, b (￭ 1 &lt;￭"),
        ({"name": "words_and_marks", "lowercase": False}, "a, b (1 &lt;"),
        ({"name": "characters"}, "a￭,b(￭1&lt;￭"),
    ],
)
def test_the_text_of_a_mistake_is_put_together_from_its_tokens(tmp_path, settings, shown):
    dataset = datasets.write(
        tmp_path / "data", {"test": ([[1, 4, 5, 6, 7, 8, 9]], [0])}, vocabulary_size=10, classes=2
    )
    dataset = dataclasses.replace(
        dataset,
        description={**dataset.description, "tokenizer": settings},
        vocabulary=(*dataset.vocabulary[:4], "a", "￭,", "b", "(￭", "1", "<￭"),
    )
    view = views.ClassesView(dataset, "test")
    view(np.array([0]), batch_of([0]), np.array([2.0]), np.array([[0.1, 0.9]]))
    written = {}
    summaries = types.SimpleNamespace(text=lambda tag, text, step: written.update({tag: text}))
    view._mistakes.write(summaries, "mistakes", view._described, 1)
    wanted = f"1. **class0**, taken for **class1** at 0.900, loss 2.000: {shown}"
    assert written == {"mistakes": wanted}


@pytest.mark.parametrize(
    "content, shown",
    [
        ("He said: 日本".encode(), "He said: 日本"),
        (b"bad \xff end", "bad \ufffd end"),
        # The second letter after 79 others is cut in two.
        (b"x" * 79 + "éé".encode(), "x" * 79 + " …"),
    ],
)
def test_the_text_of_a_mistake_in_bytes_is_the_text(tmp_path, content, shown):
    ids = [1, *(text.FIRST_ID + byte for byte in content)]
    dataset = datasets.write(
        tmp_path / "data", {"test": ([ids], [0])}, vocabulary_size=260, classes=2
    )
    dataset = dataclasses.replace(
        dataset,
        description={**dataset.description, "tokenizer": text.settings("bytes")},
        vocabulary=(*dataset.vocabulary[:4], *text.BYTE_NAMES),
    )
    assert views._text_of(dataset, dataset.splits["test"], 0) == shown


@pytest.mark.parametrize(
    "shown",
    [
        "a *great* **film** _of_ __its__ time ****",
        "[unknown] [a](b) ![c](d) `code` 3 < 4 &lt; & <br /> > \\*\\",
        "https://a.org/b_c_d # 1. - + | ~~x~~ {y}",
    ],
)
def test_tensorboard_renders_the_marks_of_a_text_as_they_are(shown):
    rendered = plugin_util.markdown_to_safe_html(f"1. **class0**: {views._as_markdown(shown)}")
    text_of = html.unescape(re.sub("<[^>]*>", "", rendered)).strip()
    assert text_of == f"class0: {shown}"


def test_only_the_costliest_mistakes_are_kept(tmp_path):
    sequences, labels = [[1, 4]] * 50, np.zeros(50, np.int32)
    dataset = datasets.write(
        tmp_path / "data", {"test": (sequences, labels)}, vocabulary_size=12, classes=2
    )
    losses = np.random.default_rng(0).permutation(50).astype(float)
    view = views.ClassesView(dataset, "test")
    view(np.arange(50), batch_of(labels), losses, np.tile([0.1, 0.9], (50, 1)))
    summaries = Summaries(tmp_path / "events", attempt=1, restored_step=0)
    found = Metrics.of(losses, np.tile([0.1, 0.9], (50, 1)), batch_of(labels))
    view.write(summaries, 1, found, None)
    summaries.close()
    [event] = EventAccumulator(str(tmp_path / "events")).Reload().Tensors("mistakes")
    shown = tensor_util.make_ndarray(event.tensor_proto).item().decode().splitlines()
    assert [line.partition("loss ")[2].partition(":")[0] for line in shown] == [
        f"{49 - i}.000" for i in range(views.MISTAKES)
    ]


@pytest.mark.parametrize(
    "examples, classes",
    [
        # the other curve shows the same decisions
        ([5, 5], [1]),
        ([1, 2, 3], [0, 1, 2]),
        (list(range(30)), list(range(10, 30))),  # the twenty most frequent
    ],
)
def test_which_classes_get_a_curve(examples, classes):
    assert views.curves_for(examples) == classes


def test_a_language_model_shows_a_text_that_it_makes_with_the_step_as_its_seed(tmp_path):
    dataset = datasets.write_text(tmp_path / "data", {"test": [[4, 5, 6]]}, vocabulary_size=12)
    summaries = Summaries(tmp_path / "events", attempt=1, restored_step=0)
    served = types.SimpleNamespace(sample=lambda seed: f"To *be*,\nor <not> {seed}")
    views.TextView(dataset, "test").write(summaries, 7, None, lambda: served)
    summaries.close()
    [event] = EventAccumulator(str(tmp_path / "events")).Reload().Tensors("sample")
    shown = tensor_util.make_ndarray(event.tensor_proto).item().decode()
    assert event.step == 7 and shown == "To \\*be\\*,  \nor &lt;not> 7"


def test_translations_are_listed_beside_their_references_and_their_attention_is_drawn(tmp_path):
    pairs = [([4 + i, 5], [6 + i]) for i in range(3)]
    words = [f"s{i}" for i in range(9)]
    dataset = datasets.write_pairs(
        tmp_path / "data", {"test": pairs}, words=words, target_words=["*", "t1", "t2", "t3", "t4"]
    )
    asked = []

    def explained(split, examples):
        asked.append(examples.tolist())
        shares = np.full((2, 3), 1 / 3)
        return [
            Explained(f"said <{i}>", ["said", "."], ["[start]", "s0", "s1"], shares * (i != 1))
            for i in examples
        ]

    summaries = Summaries(tmp_path / "events", attempt=1, restored_step=0)
    served = types.SimpleNamespace(explained=explained)
    views.PairsView(dataset, "test").write(summaries, 7, None, lambda: served)
    summaries.close()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    [event] = events.Tensors("translations")
    assert tensor_util.make_ndarray(event.tensor_proto).item().decode().splitlines() == [
        "1. s0 s1: **said &lt;0>**, reference: t2",
        "1. s1 s1: **said &lt;1>**, reference: t3",
        "1. s2 s1: **said &lt;2>**, reference: t4",
    ]
    assert event.step == 7 and asked == [[0, 1, 2]]
    # A model without attention has none to show.
    assert events.Tags()["images"] == ["attention/0", "attention/2"]


class Noted:
    """Notes what is written: {tag: (what, step)}."""

    def __init__(self):
        self.found = {}

    def _note(self, tag, what, step):
        self.found[tag] = what, step

    image = text = _note

    def pr_curve(self, *_):
        pass


def test_the_costliest_mistakes_over_frames_are_drawn(tmp_path):
    splits = datasets.random_frames()
    dataset = datasets.write_numbers(tmp_path / "data", splits, shape=(3,), labels=("a", "b", "c"))
    labels = np.asarray(splits["test"][1], np.int32)
    wrong = np.eye(3)[(labels + 1) % 3]
    losses, batch, noted = np.arange(len(labels)).astype(float), batch_of(labels), Noted()
    view = views.ClassesView(dataset, "test")
    view(np.arange(len(labels)), batch, losses, wrong)
    view.write(noted, 7, Metrics.of(losses, wrong, batch), None)
    assert set(noted.found) == {"confusion", "mistakes"}
    picture, step = noted.found["mistakes"]
    assert step == 7 and picture.dtype == np.uint8


@pytest.mark.parametrize("of_texts", [False, True])
def test_values_are_drawn_in_the_units_of_the_data(of_texts, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        views.pictures,
        "scatter",
        lambda true, predicted, name: drawn.update({name: (true, predicted)}),
    )
    captions = []
    monkeypatch.setattr(views.pictures, "sequences", lambda frames, words: captions.extend(words))
    values = np.array([[1000.0, 1.0], [3000.0, 5.0]])
    inputs = [[4, 5], [5]] if of_texts else [np.ones((2, 3)), np.zeros((1, 3))]
    shape = {"words": ("w0", "w1")} if of_texts else {"shape": (3,)}
    dataset = datasets.write_numbers(
        tmp_path / "data", {"test": (inputs, values)}, values=("mass", "age"), **shape
    )
    view, noted = views.ValuesView(dataset, "test"), Noted()
    # One deviation too much, and right.
    standardised = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    for row in (1, 0):
        view(np.array([row]), None, np.array([1.0 - row]), standardised[[row]])
    view.write(noted, 7, None, None)
    assert set(noted.found) == {"predicted/mass", "predicted/age", "costliest"}
    np.testing.assert_allclose(drawn["mass"], [[3000, 1000], [3000, 2000]])
    np.testing.assert_allclose(drawn["age"], [[5, 1], [5, 3]])
    if of_texts:
        assert noted.found["costliest"][0].splitlines() == [
            "1. **1000 1.000**, taken for **2000 3.000**, loss 1.000: w0 w1",
            "1. **3000 5.000**, taken for **3000 5.000**, loss 0.000: w1",
        ]
    else:
        assert captions == ["1000 1.000 > 2000 3.000", "3000 5.000 > 3000 5.000"]
