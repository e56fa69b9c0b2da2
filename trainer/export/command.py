"""`trainer export`: files that load without this package, proved equal before they appear.

    EXPORT_DIR/saved_model/     raw input -> answers: the `signatures` of what the task serves
    EXPORT_DIR/model.keras      ids int32[N, length] -> probabilities float32[N, classes], or of
                                each step their logarithms [N, length, ids] (language_model) or
                                [N, length, tags] (tagging); of a network with a decoder also
                                target_ids int32[N, steps] -> logarithms [N, steps, ids]; of a
                                network over frames: frames float32[N, length, features] as they
                                were read and lengths int32[N]; of a regression -> values
                                float32[N, values] in the units of the data
    EXPORT_DIR/vocabulary.txt   line i (from 0) is id i; absent if the inputs are frames
    EXPORT_DIR/target_vocabulary.txt  the same of targets that have a vocabulary of their own
    EXPORT_DIR/labels.txt       line i (from 0) is class i; absent if there are no classes
    EXPORT_DIR/values.txt       line i (from 0) is the name of value i; of a regression

`saved_model` computes with our function of the weights, `keras_model` with the Keras layers that
hold them. Both are float32, whatever precision the run trained in. A dataset of ids without words
(an imdb.npz alone) gives the Keras model only.
"""

import logging
import pathlib
import shutil

import tensorflow as tf

from trainer import durable, trained_model
from trainer.data import store
from trainer.exit_codes import BY_NAME, StorageError, UsageError
from trainer.export import expected, keras_model, proof, saved_model
from trainer.flags.use import Export
from trainer.reporting.progress import number

VALUES = "values.txt"

log = logging.getLogger(__name__)


def command(settings: Export) -> int:
    """Writes the export and prints, for each file, the largest difference seen; returns 0."""
    folder = pathlib.Path(settings.export_dir).resolve()
    _refuse_content(folder)
    model = trained_model.open_model(settings, examples=trained_model.Examples.WELCOME)
    for name, difference in export(model, folder, settings).items():
        print(f"{name} {folder / name} max_difference {number(difference)}")
    print(f"step {model.checkpoint_step}")
    return BY_NAME["done"]


def export(
    model: trained_model.TrainedModel, folder: pathlib.Path, options: Export
) -> dict[str, float]:
    """Writes the files of a model into `folder`, which appears whole or not at all.

    options: what of the answers is fixed in the files.

    Returns:
      {file: largest difference of a number from the trained model's}.

    Raises:
      UsageError: `folder` has content.
      TrainerError: an exported file cannot be loaded elsewhere, or computes something else.
      StorageError: a file cannot be written.
    """
    try:
        durable.make_folder(folder.parent)
        with durable.temporary_folder(folder) as new:
            _write(model, new, options)
            differences = proof.differences(model, new, options)
            _publish(new, folder)
    except OSError as problem:
        raise StorageError(
            f"--export_dir={folder}: writing failed ({problem}). Free space or name another "
            "folder, then run the same command again; nothing was left behind."
        ) from problem
    return differences


def _write(model: trained_model.TrainedModel, folder: pathlib.Path, options: Export) -> None:
    log.info("writing %s", expected.KERAS)
    keras_model.build(
        expected.network_of(model),
        model.weights,
        model.config.input,
        model.step.task,
        model.dataset.normalise,
        model.dataset.standardise,
    ).save(folder / expected.KERAS)
    if saved_model.reads_raw_input(model.dataset):
        log.info("writing %s", expected.SAVED_MODEL)
        with tf.device("CPU:0"):
            saved_model.save(expected.served_of(model), folder / expected.SAVED_MODEL, options)
    else:
        log.warning(
            "no saved_model: %s was prepared from ids without words, so no text can be encoded; "
            "model.keras takes ids",
            model.dataset.folder,
        )
    if model.dataset.values:
        store.write_lines(folder / VALUES, list(map(store.escape, model.dataset.values)))
    for name in store.NAMES:
        if name not in model.dataset.description["files"]:
            continue
        shutil.copyfile(model.dataset.folder / name, folder / name)


def _publish(new: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        durable.publish(new, folder)  # An empty folder is replaced.
    except OSError:
        _refuse_content(folder)
        raise


def _refuse_content(folder: pathlib.Path) -> None:
    if kind := durable.why_not_replaced(folder):
        raise UsageError(
            f"--export_dir={folder}: is {kind}. An export gets its name when it is complete, so "
            f"the name must be free: name a folder in it, such as {folder / '1'}."
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"--export_dir={folder}: exists and is not an empty folder. It was left as it is: name "
            "a folder that does not exist yet, or delete this one first."
        )
