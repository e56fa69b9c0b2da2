"""Imports point down only: the picture of the layers as data, held against every import in the
package.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "trainer"

# A module imports only from rows below its own; what shares a row is independent of each other.
PICTURE = """
    __main__
    main
    launch.submit
    launch.kubectl
    launch.kubernetes
    launch.spec
    train gang.supervisor
    loop
    doctor.command
    doctor.checks
    doctor.facts
    evaluate predict export chaos report
    faults
    chaos_jobs
    launch.local
    gang.member gang.links gang.child gang.identity
    gang.rendezvous gang.cluster gang.commits gang.watchdog resources
    fusion
    restored views readback best
    steps checkpoint progress summaries selection lock goodput
    attempts
    state journal summaries_picture
    tasks optimizer

    data.prepare
    data.sources data.classes data.vocabulary
    data.pipeline data.text data.folders data.formats data.imdb_npz data.splits
    data.order data.store data.rows data.reading data.spool data.tfrecord
    data.raw_files
    doctor.sight
    models.networks
    models.recurrent models.dropout
    strategy wire

    launch.tpu_vm_run
    launch.tpu_vm

    models.sizes
    flags stopping accelerator doctor.cluster
    config gang.channel
    exit_codes
"""
ROW = {module: row for row, line in enumerate(PICTURE.split("\n")) for module in line.split()}

# They answer before TensorFlow is there: `--help`, mistakes on the command line, whatever watches a
# training process.
WITHOUT_TENSORFLOW = (
    "main",
    "flags",
    "stopping",
    "config",
    "exit_codes",
    "journal",
    "attempts",
    "lock",
    "chaos",
    "gang.supervisor",
    "gang.member",
    "gang.links",
    "gang.child",
    "gang.identity",
    "gang.rendezvous",
    "gang.cluster",
    "gang.commits",
    "gang.channel",
    "gang.watchdog",
    "resources",
    "fusion",
    "wire",
    "goodput",
    "report",
    "launch.local",
    "chaos_jobs",
    "faults",
    "accelerator",
    "launch.tpu_vm",
    "launch.tpu_vm_run",
    "models.sizes",
    "doctor.command",
    "doctor.checks",
    "doctor.facts",
    "doctor.cluster",
    "doctor.sight",
    "launch.submit",
    "launch.kubectl",
    "launch.kubernetes",
    "launch.spec",
)


def modules() -> dict[str, pathlib.Path]:
    """{name below `trainer.`: file}; a package counts by its modules, its `__init__` is held to be
    empty of imports.
    """
    found = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
    }
    return {name: path for name, path in found.items() if not name.endswith("__init__")}


def imported_by(source: str) -> set[str]:
    """Names below `trainer.` that `source` imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {_module(name) for name in names if name.startswith("trainer.")}


def _module(name: str) -> str:
    """`trainer.data.store.Split` -> `data.store`: the longest part of it that is a module."""
    parts = name.split(".")[1:]
    while len(parts) > 1 and ".".join(parts) not in modules():
        parts.pop()
    return ".".join(parts)


def test_the_picture_shows_every_module_and_no_other():
    assert set(modules()) == set(ROW)


@pytest.mark.parametrize("module", sorted(ROW.keys() & modules()))
def test_imports_point_down_only(module):
    upwards = {
        other
        for other in imported_by(modules()[module].read_text())
        if ROW.get(other, 0) <= ROW[module]
    }
    assert not upwards, f"{module} imports {upwards}, which stand in its own row or above it"


@pytest.mark.parametrize(
    "source, names",
    [
        ("from trainer.data.store import Split", {"data.store"}),
        ("from trainer.data import store, text", {"data.store", "data.text"}),
        ("from trainer import config as configuration", {"config"}),
        ("import trainer.steps", {"steps"}),
        # Late imports count: they only move the moment.
        ("def late():\n    from trainer import train", {"train"}),
        ("import tensorflow as tf", set()),
    ],
)
def test_every_form_of_import_is_seen(source, names):
    assert imported_by(source) == names


def test_nothing_is_imported_by_merely_naming_a_package():
    for path in PACKAGE.rglob("__init__.py"):
        assert not imported_by(path.read_text()), path


@pytest.mark.parametrize("module", WITHOUT_TENSORFLOW)
def test_the_leg_without_tensorflow_imports_none(module):
    program = f"import sys, trainer.{module}; sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras')))"
    subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, check=True)
