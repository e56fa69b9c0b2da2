"""Custom jobs of Vertex AI: the exact call and specification, against a recorded gcloud."""

import json
import shlex
import subprocess

import pytest
import yaml

from trainer import main
from trainer.exit_codes import UsageError
from trainer.flags import run as configuration
from trainer.flags.submit import Submit
from trainer.launch import vertex

IMAGE = "europe-docker.pkg.dev/p/r/rnn-trainer:1-gpu"
SUBMIT = {
    "target": "vertex",
    "name": "words",
    "image": IMAGE,
    "region": "europe-west4",
    "machine_type": "n1-standard-8",
    "nfs": ("10.0.0.2:/share:/mnt/nfs/runs",),
}
TRAIN = {"data_dir": "/demo/words", "model_dir": "/mnt/nfs/runs/words"}


def job(submit=(), train=()) -> vertex.VertexJob:
    return vertex.VertexJob.of(
        Submit(**{**SUBMIT, **dict(submit)}),
        configuration.from_flat({**TRAIN, **dict(train)}),
        "f" * 64,
    )


def test_one_worker_is_one_pool():
    assert vertex.specification(job()) == {
        "workerPoolSpecs": [
            {
                "replicaCount": 1,
                "machineSpec": {"machineType": "n1-standard-8"},
                "containerSpec": {
                    "imageUri": IMAGE,
                    "command": ["python", "-m", "trainer.launch.vertex_run"],
                    "args": [
                        "--name=words",
                        "--",
                        "train",
                        "--data_dir=/demo/words",
                        "--model_dir=/mnt/nfs/runs/words",
                        "--supervise=on",
                    ],
                },
                "nfsMounts": [{"server": "10.0.0.2", "path": "/share", "mountPoint": "runs"}],
            }
        ],
        "scheduling": {"timeout": "604800s", "restartJobOnWorkerRestart": False},
    }


def test_several_workers_are_a_chief_and_a_pool_of_workers_and_no_other():
    made = vertex.specification(
        job(
            {
                "workers": 4,
                "gpus": 2,
                "gpu_type": "NVIDIA_L4",
                "machine_type": "g2-standard-24",
                "spot": True,
                "service_account": "t@p.iam.gserviceaccount.com",
                "network": "projects/7/global/networks/n",
                "deadline_seconds": 3600,
                "stage": ("gs://b/d:/tmp/d",),
                "publish": "gs://b/m/",
            },
            {"data_dir": "/tmp/d"},
        )
    )
    chief, others = made["workerPoolSpecs"]
    assert (chief["replicaCount"], others["replicaCount"]) == (1, 3)
    assert {**chief, "replicaCount": 3} == others
    assert chief["machineSpec"] == {
        "machineType": "g2-standard-24",
        "acceleratorType": "NVIDIA_L4",
        "acceleratorCount": 2,
    }
    container = chief["containerSpec"]
    assert container["args"][:4] == ["--name=words", "--stage=gs://b/d:/tmp/d", "--publish", "--"]
    assert "--accelerator=gpu" in container["args"] and "--devices=2" in container["args"]
    # Vertex names the workers in TF_CONFIG.
    assert not any(one.startswith(("--hosts", "--num_workers")) for one in container["args"])
    assert container["env"] == [{"name": "TRAINER_GANG_TOKEN", "value": "f" * 64}]
    assert made["scheduling"] == {
        "timeout": "3600s",
        "strategy": "SPOT",
        "restartJobOnWorkerRestart": False,
    }
    assert made["serviceAccount"] == "t@p.iam.gserviceaccount.com"
    assert made["network"] == "projects/7/global/networks/n"
    assert made["baseOutputDirectory"] == {"outputUriPrefix": "gs://b/m"}


def test_variables_reach_every_pool_beside_the_token():
    made = vertex.specification(job({"workers": 2, "env": ("NCCL_DEBUG=INFO", "A=b=c")}))
    for pool in made["workerPoolSpecs"]:
        assert pool["containerSpec"]["env"] == [
            {"name": "NCCL_DEBUG", "value": "INFO"},
            {"name": "A", "value": "b=c"},
            {"name": "TRAINER_GANG_TOKEN", "value": "f" * 64},
        ]


def test_a_token_of_the_user_s_own_is_kept():
    made = vertex.specification(job({"workers": 2}, {"gang_token_file": "/mnt/nfs/runs/token"}))
    assert "env" not in made["workerPoolSpecs"][0]["containerSpec"]


def test_a_job_without_apply_is_two_commands_for_a_shell(tmp_path):
    text = vertex.as_shell(job({"workers": 2, "project": "p"}))
    (tmp_path / "gcloud").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >calls\n')
    (tmp_path / "gcloud").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh"], input=text, text=True, cwd=tmp_path, env=environ, check=True)
    assert (tmp_path / "calls").read_text().split("\n")[:-1] == [
        "ai",
        "custom-jobs",
        "create",
        "--region=europe-west4",
        "--project=p",
        "--display-name=words",
        "--config=words.yaml",
    ]
    # gcloud reads YAML, whose keys must have no underscore.
    made = yaml.safe_load((tmp_path / "words.yaml").read_text())
    assert made == vertex.specification(job({"workers": 2, "project": "p"}))
    assert "_" not in "".join(_keys(made))


def _keys(document) -> list[str]:
    if isinstance(document, list):
        return [key for one in document for key in _keys(one)]
    if isinstance(document, dict):
        return [*document, *(key for one in document.values() for key in _keys(one))]
    return []


COMMAND = [
    "submit",
    "--target=vertex",
    "--name=words",
    f"--image={IMAGE}",
    "--region=europe-west4",
    "--machine_type=n1-standard-8",
    "--nfs=10.0.0.2:/share:/mnt/nfs/runs",
    "--apply",
    "--",
    "train",
    "--data_dir=/demo/words",
    "--model_dir=/mnt/nfs/runs/words",
]


def recorded(folder, monkeypatch, rest: str) -> None:
    program = folder / "gcloud"
    program.write_text(
        f'#!/bin/sh\necho "$*" >{folder}/call\n'
        f'for word; do case $word in --config=*) /bin/cat "${{word#*=}}" >{folder}/sent;; esac; '
        f"done\n{rest}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_apply_makes_the_call_with_the_specification(tmp_path, monkeypatch, capsys):
    told = "CustomJob [projects/7/locations/europe-west4/customJobs/1] is submitted successfully."
    recorded(tmp_path, monkeypatch, f"echo '{told}' >&2")
    assert main.main(COMMAND) == 0
    assert told in capsys.readouterr().out
    call = shlex.split((tmp_path / "call").read_text())
    assert call[:-1] == [
        "ai",
        "custom-jobs",
        "create",
        "--region=europe-west4",
        "--display-name=words",
    ]
    assert json.loads((tmp_path / "sent").read_text()) == vertex.specification(job())


def test_a_refusal_of_gcloud_is_shown_with_the_call(tmp_path, monkeypatch, capsys):
    recorded(tmp_path, monkeypatch, "echo 'ERROR: quota' >&2; exit 1")
    assert main.main(COMMAND) == 2
    told = capsys.readouterr().err
    assert "ERROR: quota" in told and "gcloud ai custom-jobs create" in told


def test_without_gcloud_the_job_can_still_be_printed(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main.main(COMMAND) == 2
    assert "gcloud is not on the PATH" in capsys.readouterr().err
    assert main.main([word for word in COMMAND if word != "--apply"]) == 0


@pytest.mark.parametrize(
    "submit, train, told",
    [
        ({"name": "Words"}, {}, "--name=Words: must be at most 63 lower-case letters"),
        ({"image": "rnn-trainer"}, {}, "--image=rnn-trainer: must name a tag or a digest"),
        ({"region": ""}, {}, "--region is empty"),
        ({"machine_type": ""}, {}, "--machine_type is empty"),
        ({"gpus": 1}, {}, "--gpus=1 and --gpu_type=: Vertex AI needs both or none"),
        ({"gpu_type": "NVIDIA_L4"}, {}, "--gpus=0 and --gpu_type=NVIDIA_L4"),
        ({"nfs": ("10.0.0.2:/s:/data",)}, {}, "--nfs=10.0.0.2:/s:/data: must be SERVER:/EXPORT"),
        ({"env": ("TF_CONFIG={}",)}, {}, "--env=TF_CONFIG=...: TF_CONFIG cannot be set"),
        ({"network": "default"}, {}, "--network=default: must be projects/NUMBER"),
        ({"stage": ("s3://b/d:/tmp/d",)}, {}, "s3://b/d: Vertex AI copies by way of /gcs"),
        ({"publish": "s3://b/m"}, {}, "s3://b/m: Vertex AI copies by way of /gcs"),
        ({"stage": ("gs://b/d:/mnt/nfs/runs/d",)}, {}, "a folder of the worker's own disk"),
        ({}, {"data_dir": "words"}, "--data_dir=words: is a path in the container"),
        (
            {},
            {"data_dir": "/data/words"},
            "--data_dir=/data/words: cannot be in the container: it is not on a share or in a "
            "folder of --stage (/mnt/nfs/runs), not below /gcs, and not in /demo of the "
            "image. Mount its share with --nfs=SERVER:/EXPORT:/mnt/nfs/NAME, copy it with "
            "--stage=gs://BUCKET/FOLDER:/data/words, or use /gcs/BUCKET/FOLDER.",
        ),
        ({}, {"data_dir": "/mnt/nfs/other/d"}, "--data_dir=/mnt/nfs/other/d: cannot be in the"),
        ({}, {"data_dir": "/gcs"}, "--data_dir=/gcs: cannot be in the container"),
        ({"stage": ("gs://b/d:/tmp/d",)}, {"data_dir": "/tmp/e"}, "(/mnt/nfs/runs, /tmp/d)"),
        ({}, {"init_from": "/models/m"}, "--init_from=/models/m: cannot be in the container"),
        (
            {"publish": "gs://b/m"},
            {"model_dir": "/mnt/nfs/other/m"},
            "--model_dir=/mnt/nfs/other/m: is on no share (mounted: /mnt/nfs/runs)",
        ),
        ({"publish": "gs://b/m"}, {"model_dir": "/demo/m"}, "--model_dir=/demo/m: is on no share"),
        (
            {"publish": "gs://b/m", "stage": ("gs://b/m:/tmp/m",)},
            {"model_dir": "/tmp/m"},
            "--model_dir=/tmp/m: is in /tmp/m, where --stage copies to",
        ),
        (
            {},
            {"model_dir": "/gcs/b/m"},
            "--model_dir=/gcs/b/m: is in a bucket, which has no locks and renames a folder file by "
            "file: a kill could leave half a checkpoint under its final name. Use an NFS share",
        ),
        ({}, {"model_dir": "/tmp/m"}, "--model_dir=/tmp/m: is on the disk of a worker"),
        (
            {"workers": 2, "publish": "gs://b/m"},
            {"model_dir": "/tmp/m"},
            "which the others do not see",
        ),
        (
            {"workers": 2},
            {"hosts": "a:1,b:1"},
            "--hosts and --chief_address: submit sets them for each worker",
        ),
        ({"workers": 40}, {}, "--batch_size=32: is split among 40 worker(s)"),
    ],
)
def test_a_job_that_cannot_work_is_refused(submit, train, told):
    with pytest.raises(UsageError) as problem:
        job(submit, train)
    assert told in str(problem.value)


def test_one_worker_may_train_on_its_disk_if_its_model_is_published(caplog):
    job({"publish": "gs://b/m"}, {"model_dir": "/tmp/m"})
    assert "if Vertex AI starts it again, it begins anew" in caplog.text


@pytest.mark.parametrize(
    "folder",
    ["/gcs/b", "/gcs/b/words", "/mnt/nfs/runs/words", "/tmp/d", "/tmp/d/words", "/demo/words"],
)
def test_a_run_may_read_what_is_mounted_copied_or_in_the_image(folder):
    job({"stage": ("gs://b/d:/tmp/d",)}, {"data_dir": folder, "init_from": folder})


# --- In the container -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, environ, told",
    [
        (
            ["--data_dir=/d"],
            {"AIP_CHECKPOINT_DIR": "gs://b/m/checkpoints/"},
            "--model_dir is empty: AIP_CHECKPOINT_DIR=gs://b/m/checkpoints/ is in a bucket",
        ),
        (
            ["--data_dir=/d", "--model_dir=/gcs/b/m"],
            {"CLOUD_ML_PROJECT_ID": "7"},
            "--model_dir=/gcs/b/m: is in a bucket, which has no locks",
        ),
        (["--data_dir=/d", "--model_dir=/gcs/b/m"], {}, "--data_dir=/d: no dataset.json in it"),
    ],
)
def test_a_trainer_on_vertex_refuses_a_bucket_as_its_model_folder(
    flags, environ, told, monkeypatch, capsys
):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main.main(["train", *flags]) in (2, 3)
    assert told in capsys.readouterr().err
