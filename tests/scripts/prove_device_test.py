"""Does the device proof keep working, as far as a CPU can tell?"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

PROOF = pathlib.Path(__file__).resolve().parents[2] / "scripts/prove_device.sh"


def prove(output, *flags, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [shutil.which("bash"), PROOF, "--accelerator=cpu", f"--output={output}", *flags],
        cwd=output.parent,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "RNN_TRAINER_PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
    )


def checks(output) -> dict[str, dict]:
    proof = json.loads((output / "proof.json").read_text(encoding="utf-8"))
    return {check["name"]: check for check in proof["checks"]}


def passed(output, *flags) -> dict[str, dict]:
    """Returns the checks of a quick proof that passes, by name."""
    answer = prove(output, "--quick", *flags)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    proof = json.loads((output / "proof.json").read_text(encoding="utf-8"))
    assert proof["passed"] and proof["accelerator"] == "cpu" and not proof["missing"]
    assert "proves nothing about a GPU" in proof["statement"]
    page = (output / "proof.md").read_text(encoding="utf-8")
    assert page.split("\n## ")[0].strip() == answer.stdout.strip()
    assert not list(output.glob("logs/*"))
    return checks(output)


def test_a_part_of_the_quick_proof_passes_on_a_cpu_and_claims_nothing_about_a_gpu(tmp_path):
    names = ["versions", "placement", "recurrences", "exchange", "tpu_cells"]
    found = passed(tmp_path / "proof", f"--only={','.join(names)}")
    assert set(found) == set(names)
    assert found["tpu_cells"]["outcome"] == "skipped" and found["tpu_cells"]["reason"]
    assert found["placement"]["figures"]["nodes placed"] > 100


@pytest.mark.slow
def test_the_quick_proof_passes_on_a_cpu(tmp_path):
    found = passed(tmp_path / "proof")
    assert {check["letter"] for check in found.values()} == set("abcdefghi")
    skipped = {name for name, check in found.items() if check["outcome"] == "skipped"}
    assert skipped == {"first_step", "tpu_cells", "tpu_lengths", "tpu_precision"}
    assert all(found[name]["reason"] for name in skipped)
    figures = {name: check["figures"] for name, check in found.items()}
    assert figures["repeats"]["digest 1"] == figures["repeats"]["digest 2"]
    assert figures["recovery"]["seconds from the kill to the next step"] > 0
    assert figures["placement"]["nodes placed"] > 100


# Python imports it at its start. `sys.argv` has the words after `-m trainer` by then.
SEED_OF_ITS_OWN = """
import os, sys
if "train" in sys.argv:
    sys.argv.append(f"--seed={os.getpid()}")
"""
HANGS = """
import sys, time
if "scripts.prove.programs.sight" in sys.orig_argv:
    time.sleep(1000)
"""


@pytest.mark.parametrize(
    "broken, flags, failed, reason",
    [
        pytest.param(
            SEED_OF_ITS_OWN,
            ["--only=versions,cells"],
            "cells",
            "end with different states",
            marks=pytest.mark.slow,
        ),
        (HANGS, ["--only=versions,tpu_cells", "--limit=3"], "versions", "still ran after 3 s"),
    ],
)
def test_a_broken_trainer_fails_its_check_alone_and_the_proof_ends_with_1(
    broken, flags, failed, reason, tmp_path
):
    (tmp_path / "sitecustomize.py").write_text(broken)
    output = tmp_path / "proof"
    answer = prove(output, "--quick", *flags, PYTHONPATH=str(tmp_path))
    assert answer.returncode == 1, answer.stdout + answer.stderr
    found = checks(output)
    assert len(found) == 2 and found[failed]["outcome"] == "failed"
    assert reason in found[failed]["reason"]
    assert [check["outcome"] for check in found.values()].count("failed") == 1
    assert (output / "logs" / failed / "check.log").exists()


@pytest.mark.parametrize(
    "flags, message",
    [(["--only=z"], "must be letters"), (["--accelerator=abacus"], "invalid choice")],
)
def test_a_mistake_ends_with_2_and_says_what_is_allowed(flags, message, tmp_path):
    answer = prove(tmp_path / "proof", *flags)
    assert answer.returncode == 2 and message in answer.stderr
    assert not (tmp_path / "proof").exists()
