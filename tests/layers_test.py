"""Imports point down only: the picture of the layers as data, held against every import in the
package.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "trainer"

# A room is a package or a module of `trainer` itself. It imports only from rows below its own.
# Rooms that share a row are independent of each other, so no circle is possible.
ROOMS = """
    __main__
    main
    train
    loop
    warm_up
    recorder keeper
    evaluate predict export outcome fine_tuning
    chaos doctor trained_model
    launch steps
    gang prepare tasks
    reporting data devices
    models
    resuming
    model_folder stopping
    flags
    channel failures
    durable exit_codes processes sealed shown streams
"""
# The same for the modules of each package.
INSIDE = {
    "chaos": "command / faults / trials",
    "data": "pipeline text / plans excerpt / epochs store pairs / order fields",
    "devices": "resources strategy hardware / fusion accelerator cuda nvidia exchange placement"
    " peers",
    "doctor": "command / checks sight / facts / cluster / quotas",
    "export": "command / proof keras_model / expected / examples / saved_model readback",
    "flags": "use / run prepare submit parsing / numbers tasks places / knobs",
    "gang": "supervisor / member links child identity / rendezvous roster watchdog messages proof",
    "launch": "submit / kubectl tpu_vm_run / kubernetes tpu_vm waiting vertex slurm"
    " / spec local vertex_run / isolation pods stage / kueue / values",
    "model_folder": "best / checkpoint / lock commits / attempts selection / journal",
    "models": "networks / decoder search / encoder heads / decoding vocabulary frame_encoder"
    " / recurrent noise shapes / dropout",
    "prepare": "command / frames new_frames / frame_sources / targets findings sides writing"
    " / sources classes vocabulary borrowed values given arrays digits ts steps_csv"
    " / layout imdb texts tagged parallel wav"
    " / folders formats imdb_npz splits spool npy sequences decimals"
    " / tfrecord rows reading moments / raw_files",
    "reporting": "command / progress goodput summaries pictures",
    "steps": "training translations / stepwise fused evaluation / gradient update"
    " / state programs parts packing / optimizer",
    "tasks": "table / views / translator / serving / readers tagging translation / language_model"
    " / classification regression bleu",
}


def _rows(lines: list[str]) -> dict[str, int]:
    """{name: row}, from 0 at the top."""
    return {name: row for row, line in enumerate(lines) for name in line.split()}


ROOM_ROW = _rows(ROOMS.strip().split("\n"))
MODULE_ROW = {room: _rows(rows.split("/")) for room, rows in INSIDE.items()}

# They answer before TensorFlow is there: `--help`, mistakes on the command line, and every process
# that watches a training process.
WITHOUT_TENSORFLOW = """
    main stopping resuming exit_codes channel durable processes failures sealed
    shown streams
    chaos.command chaos.trials chaos.faults
    data.plans
    devices.accelerator devices.cuda devices.nvidia devices.hardware devices.resources
    devices.fusion devices.exchange
    doctor.command doctor.checks doctor.facts doctor.cluster doctor.quotas doctor.sight
    flags.knobs flags.numbers flags.parsing flags.places flags.prepare flags.run flags.submit
    flags.tasks flags.use
    gang.supervisor gang.member gang.links gang.child gang.identity gang.rendezvous gang.roster
    gang.watchdog gang.messages gang.proof
    launch.submit launch.kubectl launch.kubernetes launch.spec launch.local launch.tpu_vm
    launch.tpu_vm_run launch.isolation launch.pods launch.kueue launch.values launch.waiting
    launch.stage launch.vertex launch.vertex_run launch.slurm
    model_folder.journal model_folder.attempts model_folder.lock model_folder.commits
    models.shapes
    reporting.goodput reporting.command
""".split()


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


def _place(module: str) -> tuple[int, int]:
    """(row of the room, row of the module in it); 0 for a room that is a module itself."""
    room, _, name = module.partition(".")
    return ROOM_ROW[room], MODULE_ROW[room][name] if name else 0


def test_the_picture_shows_every_module_and_no_other():
    drawn = {room for room in ROOM_ROW if room not in MODULE_ROW}
    drawn |= {f"{room}.{name}" for room, names in MODULE_ROW.items() for name in names}
    assert drawn == set(modules())
    assert set(MODULE_ROW) <= set(ROOM_ROW)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down_only(module):
    room, row = module.split(".")[0], _place(module)
    for other in imported_by(modules()[module].read_text()):
        if other in modules():  # else a package, by its name alone
            inside = other.split(".")[0] == room
            below = _place(other) > row if inside else _place(other)[0] > row[0]
            assert below, f"{module} imports {other}, which stands beside it or above it"


@pytest.mark.parametrize(
    "source, names",
    [
        ("from trainer.data.store import Split", {"data.store"}),
        ("from trainer.data import store, text", {"data.store", "data.text"}),
        ("from trainer.flags import run as configuration", {"flags.run"}),
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
    heavy = "any(name in sys.modules for name in ('tensorflow', 'keras'))"
    program = f"import sys, trainer.{module}; sys.exit({heavy})"
    subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, check=True)
