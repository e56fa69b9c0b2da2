"""What a user installs.

The archives hold everything that the program needs, and the requirement files pin all of it.
"""

import ast
import email
import itertools
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = pathlib.Path(__file__).resolve().parents[1]
PINNED = ROOT / "scripts/requirements"
CONFIGS = sorted((ROOT / "trainer/configs").glob("*.flags"))
TEMPLATES = sorted(
    [*(ROOT / "trainer/launch/templates").iterdir(), ROOT / "trainer/launch/bucket.sh"]
)
TENSORFLOWS = {"tensorflow", "tensorflow-cpu", "tensorflow-tpu"}
MACHINES = [
    {
        "sys_platform": system,
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.1",
    }
    for system, machine in [
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("darwin", "arm64"),
        ("win32", "AMD64"),
    ]
    for python in ("3.10", "3.11", "3.12", "3.13")
]
A_PIN = re.compile(
    r"(?P<requirement>[a-z0-9-]+==[^ ]+( ; [^\\]+)?)( \\\n +--hash=sha256:[0-9a-f]{64})+\n"
)


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns a wheel and an sdist, built from a copy, since building writes into the tree."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    shutil.copytree(
        ROOT / "trainer", source / "trainer", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    program = (
        "from setuptools import build_meta; "
        f"build_meta.build_wheel({str(built)!r}); build_meta.build_sdist({str(built)!r})"
    )
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, capture_output=True)
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def metadata(archives):
    with zipfile.ZipFile(archives[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(name))


def required(metadata, machine: dict, extra: str) -> list[Requirement]:
    everything = map(Requirement, metadata.get_all("Requires-Dist"))
    return [
        one
        for one in everything
        if not one.marker or one.marker.evaluate({**machine, "extra": extra})
    ]


def pins(name: str, machine: dict) -> dict[str, Version]:
    """Returns {package: version} that a requirements file pins for a machine."""
    found = (Requirement(pin["requirement"]) for pin in A_PIN.finditer((PINNED / name).read_text()))
    return {
        one.name: Version(next(iter(one.specifier)).version)
        for one in found
        if not one.marker or one.marker.evaluate({**machine, "extra": ""})
    }


def test_wheel_and_sdist_hold_every_module_named_run_and_template(archives):
    wanted = {
        str(path.relative_to(ROOT))
        for path in [*CONFIGS, *TEMPLATES, *(ROOT / "trainer").rglob("*.py")]
    }
    with zipfile.ZipFile(archives[0]) as wheel:
        assert wanted <= set(wheel.namelist())
    with tarfile.open(archives[1]) as sdist:
        assert wanted <= {name.partition("/")[2] for name in sdist.getnames()}


def test_the_wheel_installs_one_program_that_finds_its_named_runs(archives, tmp_path):
    with zipfile.ZipFile(archives[0]) as wheel:
        wheel.extractall(tmp_path)
    (entry_points,) = tmp_path.glob("*.dist-info/entry_points.txt")
    assert (
        entry_points.read_text().split()
        == "[console_scripts] rnn-trainer = trainer.main:console".split()
    )
    command = [sys.executable, "-m", "trainer", "train", "--help"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0
    assert all(config.name in answer.stdout for config in CONFIGS)


def test_the_version_is_that_of_the_package(metadata):
    import trainer

    assert metadata["Version"] == trainer.__version__


def test_the_archives_carry_licence_and_description(archives, metadata):
    assert "Apache-2.0" in (metadata["License"], metadata["License-Expression"])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert (ROOT / "README.md").read_text(encoding="utf-8").strip() in metadata.get_payload()
    with zipfile.ZipFile(archives[0]) as wheel:
        assert any(name.endswith("/LICENSE") for name in wheel.namelist())
    with tarfile.open(archives[1]) as sdist:
        assert {"LICENSE", "README.md"} <= {name.partition("/")[2] for name in sdist.getnames()}


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda machine: "-".join(list(machine.values())[:3])
)
@pytest.mark.parametrize(
    "extra, count",
    [("", 0), ("cpu", 1), ("gpu", 1), ("tpu", 1), ("demo", 0), ("translation", 0), ("test", 0)],
)
def test_tensorflow_comes_by_an_extra_and_never_twice(metadata, machine, extra, count):
    assert len(TENSORFLOWS & {one.name for one in required(metadata, machine, extra)}) == count


def test_every_package_that_is_imported_is_required(metadata):
    module_of = {"absl-py": "absl", "pillow": "PIL", "protobuf": "google"}
    brought = {module_of.get(one.name, one.name) for one in required(metadata, MACHINES[0], "")}
    brought |= {"tensorflow", "keras"}
    brought |= {one.name for one in required(metadata, MACHINES[0], "translation")}
    imported = {}
    for path in (ROOT / "trainer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            imported.update({name.partition(".")[0]: path.name for name in names})
    known = set(sys.stdlib_module_names) | brought | {"trainer"}
    assert {name: where for name, where in imported.items() if name not in known} == {}


@pytest.mark.parametrize("name", sorted(path.name for path in PINNED.iterdir()))
def test_pinned_files_hold_versions_with_hashes_and_nothing_else(name):
    text = re.sub(r"^ *#.*\n", "", (PINNED / name).read_text(), flags=re.MULTILINE)
    assert text
    assert A_PIN.sub("", text).strip() == ""


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda machine: "-".join(list(machine.values())[:3])
)
@pytest.mark.parametrize(
    "name, extras",
    [
        ("cpu.txt", ["cpu"]),
        ("gpu.txt", ["gpu"]),
        ("tpu.txt", ["tpu"]),
        ("test.txt", ["cpu", "demo", "test"]),
        ("gpu_wheel.txt", ["test"]),
    ],
)
def test_every_requirement_of_setup_is_pinned(metadata, machine, name, extras):
    pinned = pins(name, machine)
    for one in itertools.chain.from_iterable(
        required(metadata, machine, extra) for extra in extras
    ):
        version = pinned.get(canonicalize_name(one.name))
        assert version and one.specifier.contains(version), (
            f"{one} is pinned to {version}: run scripts/pin.sh"
        )


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda machine: "-".join(list(machine.values())[:3])
)
def test_the_tests_use_the_versions_that_users_get(machine):
    assert pins("cpu.txt", machine).items() <= pins("test.txt", machine).items()
    assert pins("demo.txt", machine).items() <= pins("test.txt", machine).items()


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda machine: "-".join(list(machine.values())[:3])
)
def test_proofs_without_a_device_use_the_versions_that_run_on_one(machine):
    on_gpus = pins("gpu.txt", machine)
    proof = pins("gpu_wheel.txt", machine)
    assert {name: on_gpus.get(name) for name in ("tensorflow", "keras")} == {
        name: proof.get(name) for name in ("tensorflow", "keras")
    }
    assert not [name for name in proof if name.startswith("nvidia")]
    assert pins("tpu_compiler.txt", machine)["libtpu"] == pins("tpu.txt", machine)["libtpu"]
