"""Fine-tuning: a run that begins with weights of another model, the one that `--init_from` names.

The embedding or what reads frames and the recurrent layers are taken by name and shape, the output
layer is not, nor is a decoder. A transfer that would be partial because the models differ (another
cell, width, vocabulary or frame) is refused. config.json of the run holds what was taken and the
digest of the state that it was taken from, so that a resume does not need the source.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from trainer import resuming, trained_model
from trainer.data import store
from trainer.exit_codes import TrainerError, UsageError
from trainer.flags import run as configuration
from trainer.flags.knobs import as_text
from trainer.model_folder.checkpoint import Checkpoint
from trainer.models import shapes
from trainer.steps import state as states

log = logging.getLogger(__name__)

# With another value of one of these, weights of one name do not mean the same.
SAME_KIND = ("cell", "bidirectional", "one_hot", "frame_encoder")
SAME_SHAPE = ("units", "embedding_size")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The state that a run has taken weights from.

    state_digest, step: of the source's checkpoint. taken: names of the weights.
    """

    state_digest: str
    step: int
    taken: tuple[str, ...]


def begun(
    config: configuration.Config, dataset: store.Dataset, run_state: states.State
) -> Origin | None:
    """Puts weights of the model that --init_from names into a new state, and says so in the log.

    Returns where they come from; None without --init_from.

    Raises UsageError if the source is no trained model, if it does not fit, or if it is not in the
    state any more from which this run began before; DataError if its checkpoints are damaged.
    """
    folder = config.folders.init_from
    if not folder:
        return None
    written = configuration.from_flat(resuming.written_in(folder, "init_from"))
    found = trained_model.checkpoint_in(pathlib.Path(folder), "auto", "init_from")
    weights = states.evaluation_weights(found.tensors)
    wanted = {name: tuple(variable.shape) for name, variable in run_state.weights.items()}
    _refuse_another_kind(config, written, wanted, weights)
    _refuse_another_vocabulary(config, dataset, written, found)
    taken = _taken(config, dataset, written, wanted, weights)
    origin = Origin(found.manifest["state_digest"], found.step, tuple(taken))
    _refuse_a_source_that_changed(config, origin)
    run_state.take(
        {name: weights[name].astype(run_state.weights[name].dtype.name) for name in taken}
    )
    run_state.optimizer.freeze(taken)
    for line in _lines(found, weights, wanted, taken):
        log.info("%s", line)
    return origin


def resumed(config: configuration.Config, run_state: states.State) -> Origin | None:
    """Returns where the restored run began, from its config.json; freezes what it has taken.

    The source is not read. Returns None without --init_from; raises UsageError if config.json does
    not say it.
    """
    if not config.folders.init_from:
        return None
    origin = _recorded(config)
    if origin is None:
        raise UsageError(
            f"{config.folders.model_dir}/config.json does not say what was taken from "
            f"--init_from={config.folders.init_from}, but `train` wrote it there. Restore the file."
        )
    run_state.optimizer.freeze(origin.taken)
    return origin


def facts(dataset: store.Dataset, origin: Origin | None) -> dict[str, Any]:
    """Returns what config.json must hold for a resume and for runs that start from this one."""
    return {
        "vocabulary_sha256": dataset.vocabulary_sha256,
        **({"origin": dataclasses.asdict(origin)} if origin else {}),
    }


def _recorded(config: configuration.Config) -> Origin | None:
    recorded = resuming.facts_in(config.folders.model_dir).get("origin")
    if recorded is None:
        return None
    try:
        return Origin(recorded["state_digest"], recorded["step"], tuple(recorded["taken"]))
    except (KeyError, TypeError):
        raise UsageError(
            f"{config.folders.model_dir}/config.json: its `origin` is not what `train` wrote. "
            "Restore the file."
        ) from None


# --- what must fit --------------------------------------------------------------------------------


def _refuse_another_kind(
    config: configuration.Config,
    written: configuration.Config,
    wanted: Iterable[str],
    weights: Iterable[str],
) -> None:
    theirs, ours = _differing(SAME_KIND, written, config)
    if theirs:
        lacking = [name for name, depth in shapes.depths(wanted).items() if depth]
        lacking = [name for name in lacking if name not in weights]
        raise UsageError(
            f"--init_from={config.folders.init_from}: that model has {theirs}, this run has "
            f"{ours}: their layers compute different things, so no weight is taken"
            + (f", and {', '.join(lacking)} are not in it" if lacking else "")
            + f". Use {theirs}, or leave out --init_from."
        )


def _refuse_another_vocabulary(
    config: configuration.Config,
    dataset: store.Dataset,
    written: configuration.Config,
    found: Checkpoint,
) -> None:
    source = config.folders.init_from
    theirs = _vocabulary_of(source, written.folders.data_dir, found)
    if found.manifest["dataset_digest"] == dataset.digest or theirs == dataset.vocabulary_sha256:
        return
    if theirs == "" or dataset.frame:
        ours, other = ("frames", "tokens") if dataset.frame else ("tokens", "frames")
        raise UsageError(
            f"--init_from={source}: that model reads {other}, and the dataset "
            f"{config.folders.data_dir} has {ours}. Name a model that was trained on {ours}."
        )
    if theirs is None:
        log.warning(
            "the vocabulary of %s is not known (an older version trained it, and its dataset %s is "
            "gone): make sure that both datasets have the same vocabulary.txt",
            source,
            written.folders.data_dir,
        )
        return
    raise UsageError(
        f"--init_from={source}: that model has the vocabulary {theirs[:12]}, "
        f"--data_dir={config.folders.data_dir} has {dataset.vocabulary_sha256[:12]}: a "
        "row of the embedding would stand for another token. Prepare the dataset with `prepare "
        f"--vocabulary_from={written.folders.data_dir}`."
    )


def _vocabulary_of(source: str, data_dir: str, found: Checkpoint) -> str | None:
    """Returns the sha256 of the vocabulary of the model in `source`, None if it is not known."""
    recorded = resuming.facts_in(source, "init_from").get("vocabulary_sha256")
    if recorded is not None:
        return recorded
    try:
        description, digest = store.read_description(pathlib.Path(data_dir))
    except (TrainerError, OSError):
        return None
    if digest != found.manifest["dataset_digest"]:  # Another dataset lies there now.
        return None
    return store.vocabulary_sha256(description)


def _taken(
    config: configuration.Config,
    dataset: store.Dataset,
    written: configuration.Config,
    wanted: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, np.ndarray],
) -> list[str]:
    """Returns the names of the weights to take: below the output layer, and in both models.

    Raises UsageError if one has another shape in the source, or if there is none.
    """
    below = [name for name, depth in shapes.depths(wanted).items() if depth]
    taken = [name for name in below if name in weights]
    source = config.folders.init_from
    other = [name for name in taken if weights[name].shape != wanted[name]]
    if other:
        lines = [f"  {name}: {weights[name].shape} there, {wanted[name]} here" for name in other]
        flags, _ = _differing(SAME_SHAPE, written, config)
        if flags:
            remedy = f"Use {flags}"
        elif dataset.frame:
            remedy = f"Prepare frames of the shape that {written.folders.data_dir} has"
        else:
            remedy = f"Use `prepare --vocabulary_from={written.folders.data_dir}`"
        raise UsageError(
            f"--init_from={source}: weights of that model have other shapes:\n"
            + "\n".join(lines)
            + f"\nA layer is taken whole or not at all. {remedy}, or leave out --init_from."
        )
    if not taken:
        raise UsageError(
            f"--init_from={source}: nothing can be taken. That model has "
            f"{', '.join(sorted(weights)) or 'no weights'}; this run has below its output layer "
            f"{', '.join(below)}. Name another model, or leave out --init_from."
        )
    return taken


def _refuse_a_source_that_changed(config: configuration.Config, origin: Origin) -> None:
    """Raises UsageError if this run began before, from another state of the same source.

    Such a run was stopped before its first checkpoint.
    """
    folder = config.folders.model_dir
    if not (pathlib.Path(folder) / "config.json").exists():
        return
    before = _recorded(config)
    same_source = resuming.written_in(folder).get("init_from") == config.folders.init_from
    if same_source and before and before.state_digest != origin.state_digest:
        raise UsageError(
            f"--init_from={config.folders.init_from} is at step {origin.step} with the state "
            f"{origin.state_digest[:12]}, but this run began from step {before.step} with "
            f"{before.state_digest[:12]} and has no checkpoint yet: its result would be another "
            f"one. Use another --model_dir, or delete {folder}/config.json to begin from the state "
            "of now."
        )


def _differing(
    names: Iterable[str], one: configuration.Config, other: configuration.Config
) -> tuple[str, str]:
    """Returns the flags among `names` whose values differ, with the values of one and the other."""
    values, others = configuration.to_flat(one), configuration.to_flat(other)
    different = [name for name in names if values[name] != others[name]]
    return tuple(
        " ".join(f"--{name}={as_text(side[name])}" for name in different)
        for side in (values, others)
    )


# --- sentences for the log ------------------------------------------------------------------------


def _lines(
    found: Checkpoint,
    weights: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
    taken: list[str],
) -> list[str]:
    """Returns lines: what was taken, what was left to the seed, what the source has besides."""
    depths = shapes.depths(wanted)
    outputs = [name for name, depth in depths.items() if not depth]
    reasons = {
        "decoder": [name for name in outputs if not shapes.is_output_layer(name)],
        "output layer": [name for name in outputs if shapes.is_output_layer(name)],
        "not in the source": [name for name in wanted if depths[name] and name not in taken],
    }
    left = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items() if names)
    unused = [
        name for name, depth in shapes.depths(weights).items() if depth and name not in wanted
    ]
    lines = [
        f"taken from step {found.step} of {found.path}: {', '.join(taken)}",
        f"left as the seed made them: {left}",
    ]
    return lines + ([f"not used of the source: {', '.join(sorted(unused))}"] if unused else [])
