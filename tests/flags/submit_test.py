"""The flags of `submit`: what another target would ignore is refused, not ignored."""

import dataclasses
import re

import pytest

from trainer import main
from trainer.flags.submit import TARGETS, Submit

FIELDS = {field.name: field for field in dataclasses.fields(Submit)}


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_with_its_default_value_is_never_refused(name):
    for target in TARGETS:
        Submit(**{"target": target, name: target if name == "target" else FIELDS[name].default})


@pytest.mark.parametrize(
    "arguments, told",
    [
        (
            ["--target=local", "--memory=8Gi"],
            "error: --memory=8Gi: --target=local would ignore it; it is for --target=kubernetes "
            "and --target=slurm. Leave it out, or use another --target.\n",
        ),
        (
            ["--target=local", "--apply", "--volume=pvc:a:/a", "--volume=pvc:b:/b"],
            "error: --apply: --target=local would ignore it; it is for --target=kubernetes and "
            "--target=tpu_vm and --target=vertex and --target=slurm.\n"
            "--volume=pvc:a:/a --volume=pvc:b:/b: --target=local would ignore it; it is for "
            "--target=kubernetes.\n"
            "Leave them out, or use another --target.\n",
        ),
        (
            ["--target=tpu_vm", "--queue=q"],
            "error: --queue=q: --target=tpu_vm would ignore it; it is for --target=kubernetes. "
            "Leave it out, or use another --target.\n",
        ),
        (
            ["--zone=us-west4-a"],
            "error: --zone=us-west4-a: --target=kubernetes would ignore it; it is for "
            "--target=tpu_vm. Leave it out, or use another --target.\n",
        ),
        (
            ["--stop=words", "--memory=8Gi"],
            "error: --memory=8Gi: --stop=words would ignore it; it takes only --context and "
            "--namespace. Leave it out.\n",
        ),
        (
            ["--target=local", "--stop=words"],
            "error: --stop=words: --target=local would ignore it; it is for --target=kubernetes "
            "and --target=slurm. `gcloud ai custom-jobs cancel` stops a job of Vertex AI, Ctrl-C "
            "any other. Leave it out, or use another --target.\n",
        ),
        (
            ["--target=slurm", "--env=A=b"],
            "error: --env=A=b: --target=slurm would ignore it; it is for --target=kubernetes and "
            "--target=vertex. --target=slurm and --target=local hand your own environment on: "
            "export it before submit. Leave it out, or use another --target.\n",
        ),
        (
            ["--target=slurm", "--stage=gs://b/d:/scratch/d"],
            "error: --stage=gs://b/d:/scratch/d: --target=slurm would ignore it; it is for "
            "--target=kubernetes and --target=vertex. Copy the folder yourself; --target=tpu_vm "
            "takes a bucket as --data_dir. Leave it out, or use another --target.\n",
        ),
        (
            ["--target=slurm", "--stop=words", "--memory=8Gi"],
            "error: --memory=8Gi: --stop=words would ignore it; it takes only --target. Leave it "
            "out.\n",
        ),
    ],
)
def test_a_refusal_names_value_rule_and_remedy_and_exits_2(arguments, told, capsys):
    assert main.main(["submit", *arguments]) == 2
    assert capsys.readouterr().err == told


def test_a_flagfile_cannot_hide_a_flag_that_is_ignored(tmp_path, capsys):
    (tmp_path / "job.flags").write_text("--memory=8Gi\n--batch_size=3\n")
    assert main.main(["submit", "--target=local", f"--flagfile={tmp_path / 'job.flags'}"]) == 2
    assert "--memory=8Gi: --target=local would ignore it" in capsys.readouterr().err


def test_help_groups_every_flag_under_the_targets_that_it_is_for(capsys):
    assert main.main(["submit", "--help"]) == 0
    shown, heading = {}, ""
    for line in capsys.readouterr().out.splitlines():
        heading = line if line.startswith("For ") else heading
        if found := re.match(r"  --(?:\[no\])?(\w+)", line):
            name = found[1] if found[1] in FIELDS else found[1].removeprefix("no")
            assert name not in shown, "a flag appears once"
            shown[name] = heading
    assert set(shown) == set(FIELDS)
    for name, heading in shown.items():
        named = set(re.findall(r"--target=(\w+)", heading)) or set(TARGETS)
        assert named == set(FIELDS[name].metadata["targets"])
    assert shown["target"] == "For every target:"
    assert shown["stop"] == (
        "For a job that was submitted to --target=kubernetes and --target=slurm:"
    )
