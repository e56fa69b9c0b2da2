"""The identity of a worker: everything that must be equal on all workers of a job.

Workers run the same loop side by side. So every setting that affects the result must be equal, and
also every setting that affects which operation comes next. Each worker may have its own paths and
its own way to meet the others.
"""

import functools
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Mapping

from trainer.devices import accelerator
from trainer.flags import run as configuration
from trainer.flags.knobs import as_text

_OWN = ("folders", "gang")  # Sections whose flags may differ from worker to worker.


def of(
    config: configuration.Config, workers: int, dataset_digest: str, hardware: Mapping[str, str]
) -> dict[str, str]:
    """Returns {what: value}, the identity of this worker.

    hardware: as `devices.hardware` returns it. Each worker makes the update by itself, and on
    another device the workers would drift apart.
    """
    own = {
        name
        for section in _OWN
        for name in configuration.TRAIN_SECTIONS[section].__dataclass_fields__
    }
    flags = {
        f"--{name}": as_text(value)
        for name, value in configuration.to_flat(config).items()
        if name not in own
    }
    return {
        "number of workers": str(workers),
        **flags,
        "dataset digest": dataset_digest,
        "code digest": code_digest(),
        "tensorflow": _version(*accelerator.TENSORFLOWS),
        "keras": _version("keras"),
        **hardware,
    }


def differences(
    index: int, identity: Mapping[str, str], other_index: int, other: Mapping[str, str]
) -> str:
    """Returns the differences between two workers and the remedy; "" if they are equal."""
    different = [
        f"{what}: {identity.get(what, 'none')} on worker {index}, {other.get(what, 'none')} on "
        f"worker {other_index}"
        for what in {**identity, **other}
        if identity.get(what) != other.get(what)
    ]
    if not different:
        return ""
    return (
        f"worker {other_index} differs from worker {index}:\n  "
        + "\n  ".join(different)
        + "\nAll workers of a job must compute the same. Start them with the same flags, dataset, "
        "code and packages, on the same kind of device."
    )


@functools.cache
def code_digest() -> str:
    """Returns the sha256 of the source files of this package: names and contents."""
    package = pathlib.Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(
            f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode() + content
        )
    return digest.hexdigest()


def _version(*distributions: str) -> str:
    """Returns the version of the first of `distributions` that is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"
