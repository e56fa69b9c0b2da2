"""The story of a run, from a configuration to a trained model: read this first.

A run is a function of (configuration, dataset, step). To continue one, restore a state and ask for the batches from its
step on; that is all a resume is. `train` tells the order of events; `_Training` is the loop between two of them.
"""

import dataclasses
import logging
import os
import pathlib
import sys
import time

import numpy as np
import tensorflow as tf

from trainer import checkpoint, evaluate, lock, optimizer, progress, restored, selection, state, steps, strategy, tasks, views
from trainer import config as configuration
from trainer.data import order, pipeline, store
from trainer.exit_codes import BY_NAME, DivergedError, FolderInUseError, StorageError, TrainerError, UsageError
from trainer.journal import Journal
from trainer.stopping import StopRequest
from trainer.summaries import Summaries

log = logging.getLogger(__name__)


def train(config: configuration.Config, stop: StopRequest) -> int:
    """Trains, or goes on training, the model in `config.folders.model_dir`; returns the exit code."""
    folder = pathlib.Path(config.folders.model_dir)
    with lock.hold(folder, abandon=lambda: stop.asked) as attempt:
        if attempt is None:
            return _say_stopped(stop, 0, "none")
        journal = Journal(folder / "journal.jsonl", attempt)
        outcome = {"code": BY_NAME["bug"], "reason": "unexpected exception"}
        try:
            code = _attempt(config, stop, folder, attempt, journal)
            outcome = {"code": code, "reason": stop.signal.name if stop.asked else "done"}
            return code
        except TrainerError as problem:
            outcome = {"code": problem.code, "reason": str(problem)}
            raise
        except OSError as problem:
            outcome = {"code": StorageError.code, "reason": str(problem)}
            raise StorageError(f"{problem}; the model folder {folder} must stay writable; check free space and permissions, then "
                               "run the same command again") from problem
        except KeyboardInterrupt:
            outcome = {"code": BY_NAME["interrupted"], "reason": "stopped at once, without a checkpoint"}
            raise
        finally:
            journal.write("stop", **outcome)
            journal.close()


def _attempt(config: configuration.Config, stop: StopRequest, folder: pathlib.Path, attempt: int, journal: Journal) -> int:
    log.info("attempt %d in %s", attempt, folder)
    has_checkpoints = bool(checkpoint.list_steps(folder / "checkpoints"))
    config = _settled(config, folder, has_checkpoints)

    # 1. Devices.
    placement = strategy.place(config.run, config.input.batch_size // config.optimizer.accumulate)
    log.info("%d %s replica(s) under %s, %d shard(s) each, %d threads", placement.replicas, placement.device_type,
             type(placement.strategy).__name__, config.run.shards, config.run.threads)

    # 2. Data.
    log.info("opening %s and checking its files", config.folders.data_dir)
    with journal.timed("open_dataset"):
        dataset = store.open_dataset(config.folders.data_dir)
    split = dataset.splits["train"]
    batches = pipeline.TrainingBatches(split, config.input, config.run.seed)
    total = config.run.steps or order.epoch_end(config.run.epochs, len(split), config.input.batch_size)
    log.info("%d training examples, %d classes, vocabulary of %d; batches are padded to %s", len(split), len(dataset.labels),
             len(dataset.vocabulary), ", ".join(map(str, batches.lengths)))

    # 3. Model, optimizer, step.
    network = restored.build_network(config, dataset, placement)
    for layer, implementation, reason in network.kernels:
        log.info("%s: %s of %s: %s", layer, implementation, config.model.cell, reason)
    log.info("%d parameters", network.parameters)
    run_state = state.State(network, optimizer.build(config.optimizer, list(network.weights.values()), total))
    weights = tasks.balanced_weights(np.bincount(split.labels, minlength=len(dataset.labels)))
    train_steps = steps.TrainSteps(network, run_state, placement, config,
                                   tuple(weights) if config.optimizer.class_weights == "balanced" else ())
    evaluation = _Evaluation.of(config, dataset, network, placement)

    # 4. Where the state comes from: the newest valid checkpoint of this folder, or the seed.
    found = checkpoint.newest_valid(folder / "checkpoints", repair=True, attempt=attempt)
    if found:
        _check_continues(found, dataset, total)
        with journal.timed("restore", step=found.step):
            run_state.restore(found.tensors, str(found.path))
        log.info("restored step %d of %d from %s", found.step, total, found.path)
    else:
        log.info("no checkpoint yet: initial weights from seed %d", config.run.seed)
        journal.write("initialise", step=0)
    with open(folder / "config.json.tmp", "w", encoding="utf-8") as file:
        file.write(configuration.to_json(config))
        file.flush()
        os.fsync(file.fileno())  # Without it no checkpoint could be continued after a loss of power.
    os.replace(folder / "config.json.tmp", folder / "config.json")
    first = found.step if found else 0
    journal.write("start", step=first, total=total, devices=placement.devices, pid=os.getpid())

    # 5. The loop, and what it leaves behind.
    training = _Training(config, folder, attempt, journal, stop, batches, run_state, train_steps, evaluation, dataset, found, total)
    return training.run()


def _settled(config: configuration.Config, folder: pathlib.Path, has_checkpoints: bool) -> configuration.Config:
    """The configuration with nothing left open: as the run in this folder began, or chosen now for a new one."""
    if has_checkpoints:
        config = configuration.resumed(config, configuration.written_in(folder))
    return dataclasses.replace(config, run=strategy.resolve(config.run, config.input.batch_size // config.optimizer.accumulate))


def _check_continues(found: checkpoint.Checkpoint, dataset: store.Dataset, total: int) -> None:
    if found.manifest["dataset_digest"] != dataset.digest:
        raise UsageError(f"{dataset.folder} has the digest {dataset.digest[:12]}, the checkpoint {found.path} was made with "
                         f"{found.manifest['dataset_digest'][:12]}: a resume must see the same data. Name that dataset, or another "
                         "--model_dir.")
    if found.step > total:
        raise UsageError(f"{found.path} is beyond the last step of this run, {total}: a run may be made longer, not shorter. "
                         "Raise --steps or --epochs, or name another --model_dir.")


def _say_stopped(stop: StopRequest, step: int, digest: str) -> int:
    _tell(f"stopped step={step} state_digest={digest}")
    return stop.exit_code


def _tell(line: str) -> None:
    """Prints a result; where nobody reads stdout any more (`| head`), training goes on without."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        log.warning("nobody reads the standard output any more: training goes on, its figures stay in the journal")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """What is evaluated while training. `selects`: whether its figures may decide anything; a test split's never do."""

    dataset: store.Dataset
    split: str
    batches: pipeline.EvaluationBatches
    step: steps.EvaluationStep

    @property
    def selects(self) -> bool:
        return self.split != "test"

    @classmethod
    def of(cls, config, dataset, network, placement) -> "_Evaluation | None":
        name = config.run.eval_split or next((name for name in ("validation", "test") if name in dataset.splits), "")
        if name and name not in dataset.splits:
            raise UsageError(f"--eval_split={name}: the dataset has {', '.join(dataset.splits)}. Name one of them.")
        if config.run.early_stop_patience and name in ("", "test"):
            raise UsageError(f"--early_stop_patience={config.run.early_stop_patience}: needs a validation split, since stopping by the "
                             "test split would choose the model by the figures that judge it. Prepare one with --validation_fraction.")
        if not name or config.run.eval_steps == -1:
            return None
        batches = pipeline.EvaluationBatches(dataset.splits[name], config.input, evaluate.ROWS)
        return cls(dataset, name, batches, steps.EvaluationStep(network, placement))


@dataclasses.dataclass
class _Window:
    """Figures since the last point in TensorBoard."""

    figures: list = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def add(self, figures: steps.StepFigures, seconds: float) -> None:
        self.figures.append(figures)
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """loss, accuracy, gradient_norm per step; examples_per_second; input_wait as share of the time."""
        sums = steps.StepFigures(*(np.concatenate(column) for column in zip(*self.figures)))
        count = sums.count.sum()
        return {
            "loss": sums.loss_sum.sum() / count, "accuracy": sums.correct.sum() / count,
            "gradient_norm": sums.gradient_norm.mean(), "examples_per_second": count / self.seconds,
            "input_wait": sums.input_seconds.sum() / self.seconds,
        }


class _Training:
    """Steps until something is due, then that, until the end or a request to stop.

    The order at one step is always: evaluate, then save, so that a checkpoint never stands for a step whose figures are
    missing; whatever was due at the restored step and is not on record is made up for first.
    """

    def __init__(self, config, folder, attempt, journal, stop, batches, run_state, train_steps, evaluation, dataset, found, total):
        self._config = config
        self._folder = folder
        self._attempt = attempt
        self._journal = journal
        self._stop = stop
        self._batches = batches
        self._state = run_state
        self._train_steps = train_steps
        self._evaluation = evaluation
        self._vocabulary = dataset.vocabulary
        self._digests = {"config_digest": configuration.digest(config), "dataset_digest": dataset.digest}
        self._total = total
        self._step = found.step if found else 0
        self._saved = {found.step: found.manifest["state_digest"]} if found else {}
        self._history = selection.History(folder / "evaluations.jsonl", self._step)
        self._cold = set(map(int, batches.lengths))
        self._cold_evaluation = evaluation.batches.lengths() if evaluation else []
        self._iterator = iter(batches.dataset(self._step))
        self._loop_size = progress.LoopSize(config.run.steps_per_loop)
        self._window = _Window()
        self._unlogged = {"steps": 0, "seconds": 0.0, "input_seconds": 0.0}

    def run(self) -> int:
        folder = self._folder / "tensorboard"
        self._train_summaries = Summaries(folder / "train", self._attempt, self._step)
        self._eval_summaries = Summaries(folder / "eval", self._attempt, self._step)
        self._train_summaries.text("config", _as_table(self._config), self._step)
        self._run_summaries = Summaries(folder, self._attempt, 0)
        self._run_summaries.hparams({name: configuration.as_text(value) if isinstance(value, tuple) else value
                                     for name, value in configuration.affecting(self._config).items()})
        with checkpoint.Writer(self._folder / "checkpoints", self._config.run.keep, self._attempt, on_saved=self._on_saved,
                               **self._digests) as self._writer, \
                progress.Progress(self._step, self._total) as self._progress:
            self._prune_best()
            while not self._is_over():
                self._advance()
            self._finish()
        if self._stop.asked and not self._is_done():
            return _say_stopped(self._stop, self._step, self._saved.get(self._step, "none"))
        _tell(f"done step={self._step} state_digest={self._saved[self._step]}")
        return BY_NAME["done"]

    # --- events -------------------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        """Does what is due at this step; whether the run ends here."""
        if not self._stop.asked:
            self._evaluate_if_due()
        if self._stop.asked or self._is_done():
            return True
        if self._step and self._step % self._config.run.save_steps == 0:
            self._save()
        return False

    def _is_done(self) -> bool:
        run = self._config.run
        stopped_early = selection.patience_is_over(self._evaluations, run.best_metric, run.early_stop_patience)
        return not self._evaluation_is_due() and (self._step >= self._total or stopped_early)

    def _advance(self) -> None:
        """Runs steps up to the next event, at most one loop."""
        if self._ends_epoch(self._step):
            self._state.begin_epoch()
        run, epoch = self._config.run, self._epoch(self._step + 1)
        due = progress.next_event(
            self._step, (run.save_steps, run.log_steps, run.eval_steps), (self._epoch_end(epoch), self._total))
        count = min(due - self._step, self._loop_size.steps)
        self._warm_up(count)
        began = time.monotonic()
        figures = self._train_steps.run(self._iterator, count)
        seconds = time.monotonic() - began
        self._loop_size.ran(count, seconds)
        self._window.add(figures, seconds)
        self._note_loop(count, seconds, figures)
        self._refuse_divergence(figures)
        self._step += count
        if self._step % run.log_steps == 0 or self._step == self._total:
            self._log_point()
        if self._ends_epoch(self._step):
            self._journal.write("epoch", epoch=epoch, step=self._step, **self._epoch_figures())
            if not self._evaluation_is_due():
                self._print_line()

    def _evaluate_if_due(self) -> None:
        if not self._evaluation_is_due():
            return
        name = self._evaluation.split
        self._warm_up_evaluation()
        began = time.monotonic()
        view = views.EvaluationView(self._evaluation.dataset, name)
        found = evaluate.figures(self._evaluation.step, self._evaluation_weights(), self._evaluation.batches,
                                 lambda: self._stop.asked, view)
        if found is None:
            return
        figures = {"loss": found.loss, "accuracy": found.accuracy, "macro_f1": found.macro_f1}
        evaluation = selection.Evaluation(self._step, name, figures)
        self._keep_if_best(evaluation)
        self._eval_summaries.write(self._step, figures)
        view.write(self._eval_summaries, self._step, found)
        self._eval_summaries.flush()
        self._journal.write("evaluate", time.monotonic() - began, step=self._step, split=name, **figures)
        self._print_line({f"{name}_loss": found.loss, f"{name}_accuracy": found.accuracy})
        # Last: an evaluation that is on record is not made again, so everything that comes of it must be there.
        self._history.append(evaluation)

    def _save(self) -> None:
        """Hands the state to the background writer, once per step; everything that belongs to it is on disk before."""
        if self._step in self._saved:
            return
        self._train_summaries.flush()
        self._eval_summaries.flush()
        self._saved[self._step] = None  # Before the writer starts: it puts the digest in, perhaps at once.
        self._writer.submit(self._step, self._state.snapshot())
        self._prune_best()

    def _finish(self) -> None:
        """The last save, waited for: a run whose last state is not on disk does not end well."""
        if self._step:
            self._save()
        self._writer.wait()
        self._prune_best()
        embedding = self._evaluation_weights().get("embedding/embeddings")
        if embedding is not None:
            self._run_summaries.projector(embedding.numpy(), self._vocabulary)
        for written in (self._train_summaries, self._eval_summaries, self._run_summaries):
            written.close()
        self._note_loop(0, 0.0, None, force=True)
        best = selection.best(self._evaluations, self._config.run.best_metric)
        if best and self._evaluation.selects:
            log.info("best %s of %s: %.4f at step %d", self._config.run.best_metric, best.split,
                     best.figures[self._config.run.best_metric], best.step)

    # --- parts of them --------------------------------------------------------------------------------------------------------

    def _warm_up(self, count: int) -> None:
        """Compiles the shapes of the next steps that have not been compiled yet, each timed by itself."""
        if not self._cold:
            return
        for length in sorted({self._batches.padded_length(self._step + i) for i in range(count)} & self._cold):
            with self._journal.timed("compile", length=length):
                self._train_steps.warm_up(length, self._batches.batch_size)
            self._cold.discard(length)

    def _warm_up_evaluation(self) -> None:
        """Compiles the shapes of the evaluation, before the first."""
        for length in self._cold_evaluation:
            if not self._stop.asked:
                with self._journal.timed("compile", length=length, split=self._evaluation.split):
                    self._evaluation.step.warm_up(self._evaluation_weights(), length, self._evaluation.batches.batch_size)
        self._cold_evaluation = []

    def _refuse_divergence(self, figures: steps.StepFigures) -> None:
        bad = ~np.isfinite([figures.loss_sum, figures.gradient_norm]).all(axis=0)
        if not bad.any():
            return
        step = self._step + int(bad.argmax()) + 1
        rows = self._batches.examples(step - 1)
        self._journal.write("diverged", step=step, examples=rows)
        raise DivergedError(
            f"step {step}: the loss is {figures.loss_sum[bad][0]}, the gradient's norm {figures.gradient_norm[bad][0]}, both must be "
            f"finite. Its batch holds the training examples {', '.join(map(str, rows[:32]))}{' ...' if len(rows) > 32 else ''} (counted "
            f"from 0; all are in the journal). Nothing of this step was saved. Lower --learning_rate or set --clip_norm, in another "
            "--model_dir.")

    def _log_point(self) -> None:
        means = self._window.means()
        self._window = _Window()
        rate = optimizer.learning_rate(self._config.optimizer, self._step - 1, self._total)
        self._train_summaries.write(self._step, {**means, "learning_rate": float(rate), **self._state.scaling()})
        self._progress.show(self._step, self._epoch(self._step), means)

    def _note_loop(self, count, seconds, figures, force=False) -> None:
        """Adds a loop to the journal's next line about loops; writes it every few seconds."""
        noted = self._unlogged
        noted["steps"] += count
        noted["seconds"] += seconds
        noted["input_seconds"] += float(figures.input_seconds.sum()) if figures else 0.0
        if noted["steps"] and (force or noted["seconds"] >= progress.SECONDS_PER_LINE):
            self._journal.write("loop", step=self._step + count, **noted)
            self._unlogged = dict.fromkeys(noted, 0)

    def _print_line(self, evaluated=None) -> None:
        epoch, every = self._epoch(self._step), self._config.run.log_epochs
        if every > 1 and not (self._ends_epoch(self._step) and epoch % every == 0):
            return
        figures = {**self._epoch_figures(), **(evaluated or {})}
        _tell(f"epoch {epoch} step {self._step} " + " ".join(f"{name} {progress.number(value)}" for name, value in figures.items()))

    def _on_saved(self, manifest: dict, seconds: float) -> None:
        self._saved[manifest["step"]] = manifest["state_digest"]
        self._journal.write("save", seconds, step=manifest["step"], state_digest=manifest["state_digest"])

    # --- the best checkpoint ----------------------------------------------------------------------------------------------------

    @property
    def _evaluations(self) -> list[selection.Evaluation]:
        """Those of the split that is evaluated now: figures of different splits say nothing about each other."""
        return [entry for entry in self._history.evaluations if self._evaluation and entry.split == self._evaluation.split]

    def _keep_if_best(self, evaluation: selection.Evaluation) -> None:
        best = selection.best([*self._evaluations, evaluation], self._config.run.best_metric)
        if not self._evaluation.selects or best is not evaluation:
            return
        parent = self._folder / "best"
        try:
            checkpoint.commit(parent, self._step, self._state.snapshot(), attempt=self._attempt, **self._digests)
        except FolderInUseError:
            # An attempt that was killed came here with another number of replicas: close to these weights, not equal.
            checkpoint.discard(checkpoint.folder_of(parent, self._step), self._attempt)
            checkpoint.commit(parent, self._step, self._state.snapshot(), attempt=self._attempt, **self._digests)

    def _prune_best(self) -> None:
        """Leaves the best checkpoint so far, and the one that was the best when the newest state on disk was saved.

        A resume from there asks for the latter; what a killed attempt kept beyond it never happened.
        """
        if not self._evaluation or not self._evaluation.selects:
            return
        newest = max((step for step, digest in self._saved.items() if digest), default=0)
        histories = self._evaluations, [entry for entry in self._evaluations if entry.step <= newest]
        wanted = {best.step for history in histories if (best := selection.best(history, self._config.run.best_metric))}
        for step in set(checkpoint.list_steps(self._folder / "best")) - wanted:
            checkpoint.discard(checkpoint.folder_of(self._folder / "best", step), self._attempt)

    # --- what the step number means ---------------------------------------------------------------------------------------------

    def _epoch(self, step: int) -> int:
        return order.epoch_of(step, self._batches.size, self._batches.batch_size)

    def _epoch_end(self, epoch: int) -> int:
        return order.epoch_end(epoch, self._batches.size, self._batches.batch_size)

    def _ends_epoch(self, step: int) -> bool:
        return step > 0 and self._epoch(step + 1) > self._epoch(step)

    def _evaluation_is_due(self) -> bool:
        """Whether this step's evaluation is still to be made."""
        if self._evaluation is None or self._step == 0 or any(entry.step == self._step for entry in self._evaluations):
            return False
        every = self._config.run.eval_steps
        return self._step == self._total or (self._step % every == 0 if every else self._ends_epoch(self._step))

    def _epoch_figures(self) -> dict[str, float]:
        sums = {name: total.numpy() for name, total in self._state.epoch.items()}
        return {"loss": float(sums["loss_sum"] / sums["count"]), "accuracy": float(sums["correct"] / sums["count"])}

    def _evaluation_weights(self) -> dict[str, tf.Tensor]:
        named = self._state.named()
        return {name: tf.convert_to_tensor(named.get(f"optimizer/{name}/average", named[f"model/{name}"]))
                for name in self._state.network.weights}


def _as_table(config: configuration.Config) -> str:
    """The configuration as a Markdown table."""
    rows = [f"| {name} | {configuration.as_text(value)} |" for name, value in configuration.to_flat(config).items()]
    return "\n".join(["| flag | value |", "|---|---|", *rows])
