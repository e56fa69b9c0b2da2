"""What must be equal on all workers of a job, and what differs between two of them, in words.

Workers run the same loop side by side: not only what decides the result, but everything that
decides which operation comes next must be the same. Where files lie and how a worker meets the
others is its own business.
"""

import functools
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Mapping

from trainer import config as configuration

_OWN = ("folders", "gang")  # Sections whose flags may differ from worker to worker.
# Distributions that bring it.
_TENSORFLOW = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tensorflow-intel")


def of(config: configuration.Config, workers: int, dataset_digest: str) -> dict[str, str]:
    """{what: value} of this worker."""
    own = {
        name
        for section in _OWN
        for name in configuration.TRAIN_SECTIONS[section].__dataclass_fields__
    }
    flags = {
        f"--{name}": configuration.as_text(value)
        for name, value in configuration.to_flat(config).items()
        if name not in own
    }
    return {
        "number of workers": str(workers),
        **flags,
        "dataset digest": dataset_digest,
        "code digest": code_digest(),
        "tensorflow": _version(*_TENSORFLOW),
        "keras": _version("keras"),
    }


def differences(
    index: int, identity: Mapping[str, str], other_index: int, other: Mapping[str, str]
) -> str:
    """What differs between two workers, as one sentence that ends with the remedy; "" where they
    are equal.
    """
    different = [
        f"{what}: {identity.get(what, 'none')} on worker {index}, {other.get(what, 'none')} on "
        f"worker {other_index}"
        for what in {**identity, **other}
        if identity.get(what) != other.get(what)
    ]
    if not different:
        return ""
    return (
        f"worker {other_index} is not the same as worker {index}:\n  "
        + "\n  ".join(different)
        + "\nAll workers of a job must compute the same. Start them with the same flags, dataset, "
        "code and packages."
    )


@functools.cache
def code_digest() -> str:
    """sha256 over the source files of this package: names and contents."""
    package = pathlib.Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(
            f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode() + content
        )
    return digest.hexdigest()


def _version(*distributions: str) -> str:
    """Of the first of `distributions` that is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"
