import errno
import io
import os
import random

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as PluginEventAccumulator,
)
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import metadata as hparams_metadata

from trainer.exit_codes import StorageError
from trainer.reporting.summaries import Summaries

EVERYTHING = {"scalars": 0, "images": 0, "tensors": 0}  # no sampling


def loaded(folder, accumulator=EventAccumulator):
    return accumulator(str(folder), size_guidance=EVERYTHING).Reload()


def points(folder, tag):
    return [(event.step, event.value) for event in loaded(folder).Scalars(tag)]


def loss(step):
    return float(np.float32(1 / (step + 1)))


def train(folder, attempt, restored, until, every=5):
    """Writes what a run writes from `restored` to `until`: a point every 5 steps, a text and a
    picture every 10.
    """
    summaries = Summaries(folder, attempt, restored)
    for step in range(restored + 1, until + 1):
        if step % every == 0:
            summaries.write(step, {"loss": loss(step), "rate": 0.5})
        if step % 10 == 0:
            summaries.text("samples", f"at {step}", step)
            summaries.image("picture", np.full((2, 3, 3), step % 256, np.uint8), step)
            summaries.pr_curve("positive", [True, False], [0.9, 0.2], step)
    return summaries


def seen(folder):
    """Everything that readers show of a run, without times."""
    every, plugin = loaded(folder), loaded(folder, PluginEventAccumulator)
    found = {tag: points(folder, tag) for tag in every.Tags()["scalars"]}
    found |= {
        tag: [(e.step, e.encoded_image_string) for e in every.Images(tag)]
        for tag in every.Tags()["images"]
    }
    found |= {
        tag: [(e.step, e.tensor_proto) for e in every.Tensors(tag)]
        for tag in every.Tags()["tensors"]
    }
    return found, {
        tag: [event.step for event in plugin.Tensors(tag)] for tag in plugin.Tags()["tensors"]
    }


# Restarts


@pytest.mark.parametrize(
    "killed_at_and_restored",
    [
        [],
        [(47, 40)],
        [(47, 40), (47, 40), (48, 40)],
        [(40, 40)],
        [(3, 0)],
        [(17, 0), (9, 0), (31, 20)],
        [(59, 20), (39, 20), (22, 20)],
        [(41, 40), (49, 20), (30, 30)],
    ],
    ids=str,
)
def test_after_kills_readers_see_what_they_see_of_an_undisturbed_run(
    tmp_path, killed_at_and_restored
):
    train(tmp_path / "undisturbed", 1, 0, 60).close()
    restored, attempt = 0, 1
    for killed_at, next_restored in killed_at_and_restored:
        train(tmp_path / "disturbed", attempt, restored, killed_at)
        restored, attempt = next_restored, attempt + 1
    train(tmp_path / "disturbed", attempt, restored, 60).close()
    assert seen(tmp_path / "disturbed") == seen(tmp_path / "undisturbed")
    assert points(tmp_path / "disturbed", "loss") == [
        (step, loss(step)) for step in range(5, 61, 5)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_a_file_cut_anywhere_behind_the_checkpoint_leaves_no_trace(tmp_path, seed):
    """A kill may lose the end of what was written after the last flush, in the middle of a record
    too.
    """
    rng = random.Random(seed)
    train(tmp_path / "undisturbed", 1, 0, 60).close()
    restored = 0
    for attempt in range(1, 5):
        summaries = train(tmp_path / "disturbed", attempt, restored, restored + 10)
        summaries.flush()
        (path,) = (tmp_path / "disturbed").glob(f"*.{attempt:08d}.*")
        safe = path.stat().st_size
        for step in range(restored + 15, restored + 30, 5):
            summaries.write(step, {"loss": loss(step), "rate": 0.5})
        os.truncate(path, rng.randint(safe, path.stat().st_size))
        restored += 10
    train(tmp_path / "disturbed", 5, restored, 60).close()
    assert seen(tmp_path / "disturbed") == seen(tmp_path / "undisturbed")


def test_files_sort_by_attempt_even_when_the_clock_is_set_back(tmp_path, monkeypatch):
    clock = iter(range(2_000_000_000, 1_000_000_000, -1000))
    monkeypatch.setattr("trainer.reporting.summaries.time.time", lambda: next(clock))
    for attempt, restored in ((9, 0), (10, 20), (11, 40)):
        train(tmp_path, attempt, restored, restored + 27)
    assert [step for step, _ in points(tmp_path, "loss")] == list(range(5, 66, 5))


def test_a_reader_that_is_open_while_the_run_is_killed_and_resumed_sees_no_seam(tmp_path):
    readers = [
        EventAccumulator(str(tmp_path), size_guidance=EVERYTHING),
        PluginEventAccumulator(str(tmp_path), size_guidance=EVERYTHING),
    ]
    for attempt, restored, until in ((1, 0, 50), (2, 30, 33), (3, 20, 60)):
        train(tmp_path, attempt, restored, until, every=1)
        for reader in readers:
            reader.Reload()
    assert [event.step for event in readers[0].Scalars("loss")] == list(range(1, 61))
    assert [event.step for event in readers[1].Tensors("loss")] == list(range(1, 61))


def test_points_beyond_the_restored_step_are_gone_even_where_none_replaces_them(tmp_path):
    train(tmp_path, 1, 0, 60)
    Summaries(tmp_path, 2, 30).close()
    assert [step for step, _ in points(tmp_path, "loss")] == list(range(5, 31, 5))


def test_what_is_there_of_the_restored_step_is_not_written_twice(tmp_path):
    train(tmp_path, 1, 0, 20)
    again = Summaries(tmp_path, 2, 20)
    again.write(20, {"loss": loss(20), "late": 3.0})
    again.text("samples", "at 20", 20)
    again.close()
    assert [step for step, _ in points(tmp_path, "loss")] == [5, 10, 15, 20]
    assert points(tmp_path, "late") == [(20, 3.0)]
    assert [event.step for event in loaded(tmp_path).Tensors("samples")] == [10, 20]


def test_a_fresh_start_forgets_what_lies_in_the_folder(tmp_path):
    first = train(tmp_path, 1, 0, 20)
    first.text("config", "old", 0)
    second = Summaries(tmp_path, 2, 0)
    second.text("config", "new", 0)
    second.close()
    assert [event.tensor_proto.string_val for event in loaded(tmp_path).Tensors("config")] == [
        [b"new"]
    ]
    assert loaded(tmp_path).Tags()["scalars"] == []
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:30] + b"\xff" * 8 + data[38:],  # inside a record
        lambda data: b"\xff" * len(data),
        lambda data: b"",
    ],
    ids=["bytes", "all", "empty"],
)
def test_a_damaged_event_file_stops_nothing(tmp_path, damage):
    train(tmp_path, 1, 0, 20).close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    train(tmp_path, 2, 20, 40).close()
    assert [step for step, _ in points(tmp_path, "loss")][-4:] == [25, 30, 35, 40]


def test_a_kill_while_older_files_are_rewritten_loses_no_point(tmp_path, monkeypatch):
    train(tmp_path, 1, 0, 40).close()
    with monkeypatch.context() as patch:
        patch.setattr(
            "trainer.durable.os.fsync", lambda path: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            Summaries(tmp_path, 2, 20)
    assert [step for step, _ in points(tmp_path, "loss")] == list(range(5, 41, 5))
    train(tmp_path, 3, 20, 40).close()
    assert [step for step, _ in points(tmp_path, "loss")] == list(range(5, 41, 5))


def test_a_point_can_be_seen_at_once(tmp_path):
    summaries = Summaries(tmp_path, 1, 0)
    for step in (1, 2):
        summaries.write(step, {"loss": np.float32(step)})
        assert points(tmp_path, "loss")[-1] == (step, step)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Summaries(tmp_path / "file" / "train", 1, 0)


@pytest.fixture
def failing_writes(monkeypatch):
    """A list of errors: each write to an event file takes the next one, after half a record."""
    errors, write = [], os.pwrite

    def pwrite(descriptor, data, position):
        if errors and (number := errors.pop(0)):
            write(descriptor, data[: len(data) // 2], position)
            raise OSError(number, os.strerror(number))
        return write(descriptor, data, position)

    monkeypatch.setattr("trainer.durable.time.sleep", lambda seconds: None)
    monkeypatch.setattr("trainer.reporting.summaries.os.pwrite", pwrite)
    return errors


def test_a_write_that_fails_for_a_moment_loses_no_point(tmp_path, failing_writes):
    failing_writes += [errno.EIO, errno.ENOSPC]
    summaries = Summaries(tmp_path, 1, 0)
    for step in (1, 2, 3):
        failing_writes += [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EIO]
        summaries.write(step, {"loss": step})
    summaries.close()
    assert points(tmp_path, "loss") == [(1, 1), (2, 2), (3, 3)]


def test_a_storage_that_fails_for_good_costs_points_and_one_warning(
    tmp_path, failing_writes, caplog
):
    summaries = Summaries(tmp_path, 1, 0)
    summaries.write(1, {"loss": 1})
    failing_writes += [errno.ENOSPC] * 7  # Five tries, then one for each point.
    for step in (2, 3, 4, 5):
        summaries.write(step, {"loss": step})
    summaries.close()
    assert points(tmp_path, "loss") == [(1, 1), (5, 5)]
    warnings = [line for line in caplog.messages if "training continues" in line]
    assert len(warnings) == 1 and "No space left" in warnings[0] and str(tmp_path) in warnings[0]


def test_a_flush_that_fails_for_good_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    def failing(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    summaries = Summaries(tmp_path, 1, 0)
    monkeypatch.setattr("trainer.durable.sync", failing)
    summaries.flush()
    summaries.projector(np.zeros((2, 2)), ["a", "b"])
    summaries.close()
    assert caplog.text.count("training continues") == 1


# Views


def test_text_comes_back(tmp_path):
    summaries = Summaries(tmp_path, 1, 0)
    summaries.text("config", "| flag | value |\n|---|---|\n| é | 1 |", 0)
    summaries.close()
    reader = loaded(tmp_path)
    (event,) = reader.Tensors("config")
    assert event.tensor_proto.string_val[0].decode() == "| flag | value |\n|---|---|\n| é | 1 |"
    assert reader.SummaryMetadata("config").plugin_data.plugin_name == "text"


def test_a_picture_comes_back_pixel_for_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    summaries = Summaries(tmp_path, 1, 0)
    summaries.image("confusion", pixels, 30)
    summaries.close()
    (event,) = loaded(tmp_path).Images("confusion")
    assert (event.step, event.height, event.width) == (30, 5, 7)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(event.encoded_image_string))), pixels
    )


def test_a_pr_curve_holds_precision_and_recall_at_each_threshold(tmp_path):
    rng = np.random.default_rng(1)
    labels = rng.random(500) < 0.3
    scores = np.where(labels, rng.beta(3, 2, 500), rng.beta(2, 3, 500))
    scores[:2] = 0, 1
    summaries = Summaries(tmp_path, 1, 0)
    summaries.pr_curve("positive", labels, scores, 30)
    summaries.close()
    reader = loaded(tmp_path)
    (event,) = reader.Tensors("positive/pr_curves")
    found = np.frombuffer(event.tensor_proto.tensor_content, np.float32).reshape(6, 201)
    for index in range(201):
        predicted = np.floor(scores * 200) >= index
        hits = (predicted & labels).sum()
        np.testing.assert_allclose(
            found[:, index],
            [
                hits,
                predicted.sum() - hits,
                (~predicted & ~labels).sum(),
                (~predicted & labels).sum(),
                hits / max(predicted.sum(), 1),
                hits / labels.sum(),
            ],
            rtol=1e-6,
        )
    assert reader.SummaryMetadata("positive/pr_curves").plugin_data.plugin_name == "pr_curves"


def test_hparams_hold_the_configuration_of_the_last_attempt(tmp_path):
    for attempt, steps in ((1, 100), (2, 200)):
        summaries = Summaries(tmp_path, attempt, 0)
        summaries.hparams(
            {"learning_rate": 0.01, "units": "64,64", "bidirectional": True, "steps": steps}
        )
        summaries.close()
    content = loaded(tmp_path).PluginTagToContent("hparams")[
        hparams_metadata.SESSION_START_INFO_TAG
    ]
    found = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}
    assert values == {"learning_rate": 0.01, "units": "64,64", "bidirectional": True, "steps": 200}


def test_the_projector_gets_vectors_and_a_visible_label_for_each(tmp_path):
    weights = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    Summaries(tmp_path, 1, 0).projector(weights, ["", "\t", "new\nline", "naïve", "a b"])
    config = text_format.Parse(
        (tmp_path / "projector_config.pbtxt").read_text(), projector.ProjectorConfig()
    )
    (embedding,) = config.embeddings
    np.testing.assert_allclose(
        np.loadtxt(tmp_path / embedding.tensor_path, delimiter="\t"), weights, rtol=1e-5
    )
    labels = (tmp_path / embedding.metadata_path).read_text().splitlines()
    assert labels == ["''", r"'\t'", r"'new\nline'", "naïve", "a b"]


def test_the_projector_gets_no_more_rows_than_a_browser_can_show(tmp_path):
    Summaries(tmp_path, 1, 0).projector(
        np.zeros((10_100, 2)), [f"word {row}" for row in range(10_100)]
    )
    for name in ("vectors.tsv", "labels.tsv"):
        assert len((tmp_path / name).read_text().splitlines()) == 10_000
