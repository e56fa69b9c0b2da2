"""The tasks, and the metrics of each."""

from trainer.flags.knobs import Rule

# {task: {metric: whether a lower or a higher value is better}}; the first is --best_metric unless
# the flag names another one.
TASKS = {
    "classification": {"accuracy": "higher", "loss": "lower", "macro_f1": "higher"},
    "language_model": {
        "perplexity": "lower",
        "loss": "lower",
        "bits": "lower",
        "accuracy": "higher",
    },
    "regression": {"rmse": "lower", "loss": "lower", "mae": "lower", "r2": "higher"},
    "tagging": {"macro_f1": "higher", "loss": "lower", "accuracy": "higher", "span_f1": "higher"},
    "translation": {
        "perplexity": "lower",
        "loss": "lower",
        "bits": "lower",
        "accuracy": "higher",
        "bleu": "higher",
        "chrf": "higher",
    },
}

# Metrics of what a run translates at its evaluations (--translate_examples).
OF_TRANSLATIONS = ("bleu", "chrf")

_METRICS = sorted({metric for metrics in TASKS.values() for metric in metrics})


METRIC_OR_DEFAULT = Rule(
    f"must be one of {' | '.join(_METRICS)}", lambda value: value in ("", *_METRICS)
)
