"""The manifests that submit prints: word for word those beside k8s/README.md, and what the API
server would take.
"""

import contextlib
import io
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from trainer import main
from trainer.exit_codes import TABLE
from trainer.launch import kubernetes, pods

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "k8s/README.md").read_text(encoding="utf-8")
COMMANDS = {
    file: shlex.split(command)
    for command, file in re.findall(
        r"^python -m trainer (submit .*) > (k8s/\w+\.yaml)$", README, re.M
    )
}
TOKEN = re.compile('token: "[0-9a-f]{64}"')
VERSION = "1.34"  # Of Kubernetes.
# JobSet is a custom resource, whose schema no package publishes: its Job and pod templates are
# checked as Jobs and pods.
PUBLISHED = {"Service", "Secret", "Job", "NetworkPolicy", "Deployment", "PersistentVolumeClaim"}


def rendered(*arguments) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main.main(arguments) == 0
    return out.getvalue()


def documents(file: str) -> list[dict]:
    return list(yaml.safe_load_all(rendered(*COMMANDS[file])))


def of_kind(file: str, kind: str) -> dict:
    [found] = [document for document in documents(file) if document["kind"] == kind]
    return found


def workers_job(file: str) -> dict:
    """The specification of the Job that holds the workers."""
    jobsets = [document for document in documents(file) if document["kind"] == "JobSet"]
    return (
        jobsets[0]["spec"]["replicatedJobs"][0]["template"]["spec"]
        if jobsets
        else of_kind(file, "Job")["spec"]
    )


def pod_templates(file: str) -> list[dict]:
    deployments = [document for document in documents(file) if document["kind"] == "Deployment"]
    return [
        workers_job(file)["template"],
        *(deployment["spec"]["template"] for deployment in deployments),
    ]


def test_there_is_an_example_of_every_shape():
    assert {f"k8s/{path.name}" for path in (ROOT / "k8s").glob("*.yaml")} == {
        *COMMANDS,
        "k8s/claim.yaml",
    }
    templates = {path.name for path in kubernetes.TEMPLATES.glob("*.yaml")}
    assert templates == {
        "job.yaml",
        "indexed_job.yaml",
        "jobset.yaml",
        "tpu_job.yaml",
        "network_policy.yaml",
        "secret.yaml",
        "chief.yaml",
        "tensorboard.yaml",
    }


@pytest.mark.parametrize("file", COMMANDS)
def test_an_example_is_what_its_command_prints(file):
    # No token is published: a worker refuses what stands there, which is too short.
    text = TOKEN.sub('token: "openssl rand -hex 32"', rendered(*COMMANDS[file]))
    assert text == (ROOT / file).read_text(encoding="utf-8"), (
        f"run the commands for {file} in k8s/README.md"
    )


@pytest.mark.parametrize("file", [*COMMANDS, "k8s/claim.yaml"])
def test_every_object_fits_its_published_schema(file):
    for document in yaml.safe_load_all((ROOT / file).read_text(encoding="utf-8")):
        if document["kind"] == "JobSet":
            document = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "x"},
                "spec": workers_job(file),
            }
        assert document["kind"] in PUBLISHED
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_printing_needs_no_tensorflow():
    command = COMMANDS["k8s/indexed_job.yaml"]
    program = (
        "import sys; from trainer import main; "
        f"sys.exit(main.main({command!r}) or 'tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


# --- What must hold in every shape ----------------------------------------------------------------


@pytest.mark.parametrize("file", COMMANDS)
def test_the_cluster_does_with_each_exit_code_what_the_table_says(file):
    rules = workers_job(file)["podFailurePolicy"]["rules"]
    actions = {
        code: rule["action"]
        for rule in reversed(rules)
        for code in rule.get("onExitCodes", {}).get("values", [])
    }
    wanted = {"fail the job": "FailJob", "retry, not counted": "Ignore"}
    assert actions == {
        row.code: wanted[row.on_cluster] for row in TABLE if row.on_cluster in wanted
    }
    assert {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    } in rules
    # Without it there may be no such policy.
    assert workers_job(file)["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("file", [file for file in COMMANDS if file != "k8s/tpu.yaml"])
def test_pods_satisfy_the_restricted_standard(file):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a
    read-only root besides.
    """
    for template in pod_templates(file):
        pod = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        assert (
            pod["securityContext"]["runAsNonRoot"] is True
            and pod["securityContext"]["runAsUser"] > 0
        )
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        }
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_a_tpu_pod_asks_for_no_more_than_its_driver_needs():
    pod = workers_job("k8s/tpu.yaml")["template"]["spec"]
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_RESOURCE"]},
    }
    assert container["command"][2] == 'ulimit -l 68719476736; exec python -m trainer "$@"'
    assert pod["nodeSelector"] == {
        "kubernetes.io/arch": "amd64",
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "2x4",
    }
    assert (
        container["resources"]["limits"]["google.com/tpu"]
        == container["resources"]["requests"]["google.com/tpu"]
        == 8
    )


def test_a_selector_of_the_user_s_own_replaces_that_of_the_tpu():
    words = COMMANDS["k8s/tpu.yaml"]
    own = "--node_selector=cloud.google.com/gke-tpu-accelerator=tpu-v5-lite-device"
    text = rendered(words[0], own, *words[1:])
    [job] = [one for one in yaml.safe_load_all(text) if one["kind"] == "Job"]
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {
        "kubernetes.io/arch": "amd64",
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-device",
        "cloud.google.com/gke-tpu-topology": "2x4",
    }


SEVERAL = [file for file in COMMANDS if file not in ("k8s/job.yaml", "k8s/tpu.yaml")]


@pytest.mark.parametrize("file", SEVERAL)
def test_several_workers_share_a_token_that_only_the_secret_and_its_mount_hold(file):
    first, second = rendered(*COMMANDS[file]), rendered(*COMMANDS[file])
    [line] = TOKEN.findall(first)
    assert line not in second  # Made anew each time.
    token = line.split('"')[1]
    assert first.count(token) == 1
    [secret] = [one for one in yaml.safe_load_all(first) if one["kind"] == "Secret"]
    assert secret["stringData"] == {"token": token}
    pod = workers_job(file)["template"]["spec"]
    [container] = pod["containers"]
    assert "--gang_token_file=/etc/rnn-trainer/token" in container["args"]
    [volume] = [one for one in pod["volumes"] if one["name"] == "gang"]
    assert volume["secret"] == {"secretName": secret["metadata"]["name"], "defaultMode": 0o440}
    assert {"name": "gang", "mountPath": "/etc/rnn-trainer", "readOnly": True} in container[
        "volumeMounts"
    ]


@pytest.mark.parametrize("file", [file for file in COMMANDS if file not in SEVERAL])
def test_a_worker_alone_needs_no_token(file):
    assert "token" not in rendered(*COMMANDS[file]).replace("automountServiceAccountToken", "")


def test_a_token_of_the_user_s_own_takes_the_place_of_the_secret():
    words = COMMANDS["k8s/indexed_job.yaml"]
    own = ["--volume=secret:mine:/keys", "--gang_token_file=/keys/token"]
    text = rendered(words[0], own[0], *words[1:], own[1])
    assert "kind: Secret" not in text and text.count("--gang_token_file=") == 1
    assert own[1] in text


@pytest.mark.parametrize("file", COMMANDS)
def test_only_the_job_s_own_pods_may_connect_to_its_workers(file):
    [policy] = [
        document["spec"]
        for document in documents(file)
        if document["kind"] == "NetworkPolicy" and document["metadata"]["name"] == "words"
    ]
    pods = workers_job(file)["template"]["metadata"]["labels"]
    own = kubernetes.labels("words", "trainer")
    assert own.items() <= pods.items()
    assert policy == {
        "podSelector": {"matchLabels": own},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": own}}]}],
    }


def test_workers_find_each_other_by_names_that_the_cluster_makes():
    [service] = [
        document
        for document in documents("k8s/indexed_job.yaml")
        if document["kind"] == "Service" and document["metadata"]["name"] == "words"
    ]
    job = workers_job("k8s/indexed_job.yaml")
    assert (
        service["spec"]["clusterIP"] == "None"
        and service["spec"]["publishNotReadyAddresses"] is True
    )
    assert service["spec"]["selector"].items() <= job["template"]["metadata"]["labels"].items()
    assert job["template"]["spec"]["subdomain"] == service["metadata"]["name"] == "words"
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] == 2
    assert "--hosts=words-{index}.words:2222" in job["template"]["spec"]["containers"][0]["args"]
    jobset = of_kind("k8s/jobset.yaml", "JobSet")["spec"]
    assert jobset["network"] == {
        "enableDNSHostnames": True,
        "subdomain": "words",
        "publishNotReadyAddresses": True,
    }
    assert jobset["replicatedJobs"][0]["name"] == "worker"
    [container] = workers_job("k8s/jobset.yaml")["template"]["spec"]["containers"]
    assert "--hosts=words-worker-0-{index}.words:2222" in container["args"]


@pytest.mark.parametrize("file", SEVERAL)
def test_the_chief_has_a_name_before_its_pod_and_each_worker_knows_its_own_address(file):
    [service] = [
        document
        for document in documents(file)
        if document["kind"] == "Service" and document["metadata"]["name"] == "words-chief"
    ]
    assert service["metadata"]["labels"] == kubernetes.labels("words")
    assert service["spec"] == {
        "publishNotReadyAddresses": True,
        "selector": {
            **kubernetes.labels("words", "trainer"),
            "batch.kubernetes.io/job-completion-index": "0",
        },
        "ports": [{"name": "rendezvous", "port": 2222}],
    }
    [container] = workers_job(file)["template"]["spec"]["containers"]
    assert "--chief_address=words-chief:2222" in container["args"]
    assert container["env"] == [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    ]


def test_a_first_process_that_is_stopped_continues():
    [container] = workers_job("k8s/indexed_job.yaml")["template"]["spec"]["containers"]
    *shell, program = container["livenessProbe"]["exec"]["command"]
    with subprocess.Popen(["sleep", "60"]) as process:
        stat = pathlib.Path(f"/proc/{process.pid}/stat")

        def probe() -> str:
            """Runs the probe as if `process` were process 1; returns the state it is in then."""
            mine = program.replace("/proc/1/", f"/proc/{process.pid}/")
            mine = mine.replace("-CONT 1", f"-CONT {process.pid}")
            subprocess.run([*shell, mine], check=True)
            return stat.read_text().split()[2]

        assert probe() != "T"
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert stat.read_text().split()[2] == "T"
        assert probe() != "T"
        process.kill()


def test_a_jobset_starts_all_workers_anew_unless_that_is_hopeless():
    jobset = of_kind("k8s/jobset.yaml", "JobSet")["spec"]
    assert jobset["failurePolicy"] == {
        "maxRestarts": 6,
        "restartStrategy": "BlockingRecreate",
        "rules": [
            {
                "name": "hopeless",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"],
            }
        ],
    }
    assert workers_job("k8s/jobset.yaml")["backoffLimit"] == 0


@pytest.mark.parametrize(
    "file, queue", [("k8s/queued_gpu.yaml", "team"), ("k8s/indexed_job.yaml", None)]
)
def test_a_queued_job_waits_for_its_queue(file, queue):
    job = of_kind(file, "Job")
    assert job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") == queue
    assert job["spec"]["suspend"] is bool(queue)


def test_shapes_differ_only_where_they_must():
    """The templates are whole files; what they share is written in each, and must stay the same."""

    def shared(file):
        pod = workers_job(file)["template"]["spec"]
        [container] = pod["containers"]
        arguments = [
            one
            for one in container["args"]
            if not one.startswith(
                ("--num_workers", "--hosts", "--chief_address", "--gang_token_file")
            )
        ]
        mounts = [one for one in container["volumeMounts"] if one["name"] != "gang"]
        return {
            **pod,
            "subdomain": "",
            "volumes": [one for one in pod["volumes"] if one["name"] != "gang"],
            "containers": [{**container, "env": [], "args": arguments, "volumeMounts": mounts}],
        }

    assert shared("k8s/job.yaml") == shared("k8s/indexed_job.yaml") == shared("k8s/jobset.yaml")


def test_the_grace_period_is_the_one_that_the_trainer_plans_with():
    pod = workers_job("k8s/queued_gpu.yaml")["template"]["spec"]
    assert (
        "--grace_seconds=15.0" in pod["containers"][0]["args"]
        and pod["terminationGracePeriodSeconds"] == 15
    )


def test_tensorboard_sees_the_model_folder_and_cannot_write_it():
    pod = of_kind("k8s/indexed_job.yaml", "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert {"name": "model", "mountPath": "/data", "readOnly": True} in container["volumeMounts"]
    assert "--logdir=/data/words/tensorboard" in container["args"]


# Every flag that a template has a hole for and that no example uses.
FULL = [
    "--cpu_limit=32",
    "--scratch=2Gi",
    "--env=NCCL_DEBUG=INFO",
    "--env_secret=TOKEN=keys:token",
    "--runtime_class=nvidia",
    "--annotation=note=a: b # c",
    "--label=team=vision",
    "--priority_class=high",
    "--queue=team",
    "--queue_priority=urgent",
    "--queue_topology=preferred:example.com/rack",
    "--queue_seconds=3600",
    "--anti_affinity=kubernetes.io/hostname",
    "--spread=topology.kubernetes.io/zone",
    "--volume=emptydir:1Gi:/scratch",
]


@pytest.mark.parametrize("file", COMMANDS)
def test_every_shape_carries_what_the_flags_of_a_pod_ask_for(file):
    words = COMMANDS[file]
    found = list(yaml.safe_load_all(rendered(words[0], *FULL, *words[1:])))
    [job] = [one for one in found if one["kind"] in ("Job", "JobSet")]
    assert (
        job["metadata"]["labels"].items()
        >= {
            "kueue.x-k8s.io/queue-name": "team",
            "kueue.x-k8s.io/priority-class": "urgent",
            "kueue.x-k8s.io/max-exec-time-seconds": "3600",
        }.items()
    )
    if job["kind"] == "JobSet":
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "x"},
            "spec": job["spec"]["replicatedJobs"][0]["template"]["spec"],
        }
    kubernetes_validate.validate(job, VERSION, strict=True)
    template = job["spec"]["template"]
    pod, own = template["spec"], kubernetes.labels("words", "trainer")
    [container] = pod["containers"]
    assert template["metadata"]["labels"] == {
        **own,
        "sidecar.istio.io/inject": "false",
        "team": "vision",
    }
    annotations = template["metadata"]["annotations"]
    assert annotations["note"] == "a: b # c"
    assert annotations["kueue.x-k8s.io/podset-preferred-topology"] == "example.com/rack"
    assert pod["runtimeClassName"] == "nvidia" and pod["priorityClassName"] == "high"
    given = [variable["name"] for variable in container["env"] if variable not in pods.OWN_IP]
    assert given == ["NCCL_DEBUG", "TOKEN"]
    assert container["resources"]["limits"]["cpu"] == "32"
    assert container["resources"]["limits"]["ephemeral-storage"] == "3072Mi"
    sizes = {one["name"]: one["emptyDir"] for one in pod["volumes"] if "emptyDir" in one}
    assert sizes["tmp"] == {"sizeLimit": "2Gi"}
    [term] = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"] == {"matchLabels": own}
    assert pod["topologySpreadConstraints"][0]["topologyKey"] == "topology.kubernetes.io/zone"


# --- Copies ---------------------------------------------------------------------------------------

COPIES = [
    "--stage=gs://my-bucket/words:/scratch/words",
    "--publish=gs://my-bucket/model",
    "--stage_image=google/cloud-sdk:slim",
    "--volume=emptydir:10Gi:/scratch",
]
SHAPES = ["k8s/job.yaml", "k8s/indexed_job.yaml", "k8s/jobset.yaml", "k8s/tpu.yaml"]


def copying(file: str, *more: str) -> tuple[str, dict]:
    """The manifest of an example with copies, and the specification of its workers' Job."""
    words = COMMANDS[file]
    text = rendered(words[0], *COPIES, *more, *words[1:], "--data_dir=/scratch/words")
    [job] = [one for one in yaml.safe_load_all(text) if one["kind"] in ("Job", "JobSet")]
    if job["kind"] == "JobSet":
        return text, job["spec"]["replicatedJobs"][0]["template"]["spec"]
    return text, job["spec"]


@pytest.mark.parametrize("file", SHAPES)
def test_a_job_with_copies_fits_the_schema(file):
    text, job = copying(file)
    document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job}
    kubernetes_validate.validate(document, VERSION, strict=True)
    assert "null" not in text


@pytest.mark.parametrize("file", SHAPES)
def test_copies_come_before_and_beside_the_trainer_and_are_as_confined(file):
    _, job = copying(file)
    pod = job["template"]["spec"]
    tools, staged, check = pod["initContainers"]
    trainer, publish = pod["containers"]
    assert [one["name"] for one in pod["initContainers"]] == ["tools", "stage-0", "check"]
    assert (trainer["name"], publish["name"]) == ("trainer", "publish")
    assert tools["image"] == trainer["image"]
    assert tools["command"] + tools["args"] == ["python", "-m", "trainer.launch.stage", "/tmp"]
    url, model = "gs://my-bucket/model", "/data/words"
    for container, words in [
        (staged, ["stage", "gs://my-bucket/words", "/scratch/words"]),
        (check, ["check", url, f"words {model}"]),
        (publish, ["publish", url, f"words {model}", model, "/tmp/outcome"]),
    ]:
        assert container["image"] == "google/cloud-sdk:slim"
        assert container["command"] + container["args"] == ["sh", "/tmp/bucket.sh", *words]
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
        assert container["securityContext"] == kubernetes.CONFINED
        assert "memory" in container["resources"]["limits"]
    [scratch] = [one for one in staged["volumeMounts"] if one["name"] != "tmp"]
    assert scratch["mountPath"] == "/scratch" and "readOnly" not in scratch
    [data] = [one for one in publish["volumeMounts"] if one["name"] != "tmp"]
    assert data["mountPath"] == "/data" and data["readOnly"] is True
    # The trainer stays process 1, so that it gets the cluster's signals.
    assert trainer["command"][2].endswith('exec python -m trainer "$@"')
    assert "exec 9>/tmp/outcome; export TRAINER_OUTCOME_FD=9; " in trainer["command"][2]
    assert ("ulimit" in trainer["command"][2]) == (file == "k8s/tpu.yaml")


@pytest.mark.parametrize("file", SHAPES)
def test_copies_carry_the_environment_and_what_quotas_count(file):
    words = COMMANDS[file]
    flags = (
        "--cpu_limit=32",
        "--scratch=2Gi",
        "--env=HTTPS_PROXY=http://proxy:3128",
        "--env_secret=AWS_ACCESS_KEY_ID=keys:id",
    )
    text = rendered(words[0], *COPIES, *flags, *words[1:], "--data_dir=/scratch/words")
    for document in yaml.safe_load_all(text):
        if document["kind"] == "Job":
            kubernetes_validate.validate(document, VERSION, strict=True)
    [job] = [one for one in yaml.safe_load_all(text) if one["kind"] in ("Job", "JobSet")]
    spec = job["spec"]
    if job["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    pod = spec["template"]["spec"]
    trainer, *others = [*pod["containers"], *pod["initContainers"]]
    assert len(others) == 4
    for container in others:
        assert container["env"] == [one for one in trainer["env"] if one not in pods.OWN_IP]
        for kind in ("requests", "limits"):
            counted = trainer["resources"][kind].keys() - {"google.com/tpu", "nvidia.com/gpu"}
            assert container["resources"][kind].keys() == counted
        assert container["resources"]["limits"]["cpu"] == "1"


@pytest.mark.parametrize("file", SHAPES)
def test_a_wrong_url_or_image_of_a_copy_fails_the_job_at_once_and_another_failure_counts(file):
    _, job = copying(file, "--stage=gs://my-bucket/source:/scratch/source")
    names = [
        (one["onExitCodes"]["containerName"], one["action"])
        for one in job["podFailurePolicy"]["rules"]
        if one.get("onExitCodes", {}).get("values") == [2]
    ]
    assert names == [(name, "FailJob") for name in ("stage-0", "stage-1", "check")]
    # Each names a container of the pod, or the API server refuses the job.
    pod = job["template"]["spec"]
    there = {one["name"] for one in [*pod["initContainers"], *pod["containers"]]}
    named = {
        one["onExitCodes"]["containerName"]
        for one in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in one
    }
    assert named <= there


def test_a_job_that_only_stages_has_no_container_beside_the_trainer():
    words = COMMANDS["k8s/job.yaml"]
    text = rendered(words[0], COPIES[0], *COPIES[2:], *words[1:], "--data_dir=/scratch/words")
    [job] = [one for one in yaml.safe_load_all(text) if one["kind"] == "Job"]
    pod = job["spec"]["template"]["spec"]
    assert [one["name"] for one in pod["initContainers"]] == ["tools", "stage-0"]
    [trainer] = pod["containers"]
    assert "command" not in trainer  # The image's own.


# --- Templates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "N",
        "on",
        "1e3",
        "0x1F",
        "a: b # c",
        'say "so"',
        "back\\slash",
        "{index}",
        "",
        "ü",
        7,
        True,
        [],
        {},
    ],
)
def test_no_value_changes_its_meaning_in_yaml(value):
    assert yaml.safe_load(kubernetes.fill("a: ${hole}\n", {"hole": value})) == {"a": value}
    assert yaml.safe_load(kubernetes.fill("a:\n- b: ${hole}\n", {"hole": [value] * 40})) == {
        "a": [{"b": [value] * 40}]
    }


def test_long_values_are_broken_into_lines_below_their_key():
    arguments = [f"--flag_{index}=value" for index in range(9)]
    text = kubernetes.fill(
        "  args: ${args}                # Why.\n  - all: ${args}\n", {"args": arguments}
    )
    assert text.splitlines()[1:3] == ["  - all: [", '      "--flag_0=value",']
    assert text.endswith('      "--flag_8=value"]\n')


def test_comments_stay_in_their_column():
    filled = kubernetes.fill(
        "  a: ${n}                     # Why.\n  bbbb: ${m}       # Because.",
        {"n": 123456, "m": True},
    )
    assert [line.index("#") for line in filled.splitlines()] == [kubernetes.COMMENT_COLUMN + 2] * 2


def test_the_line_of_a_value_that_is_none_is_left_out():
    text = "a: ${a}\n# b holds ${b}.\nb: ${b}  # Why.\nc: 1\n"
    assert kubernetes.fill(text, {"a": 1, "b": None}) == "a: 1\nc: 1\n"


def test_the_line_of_a_tuple_is_there_for_each_of_its_entries():
    text = "a:\n- b: ${b}\n- c: ${c}\n"
    assert kubernetes.fill(text, {"b": (1, [2]), "c": ()}) == "a:\n- b: 1\n- b: [2]\n"


def test_a_hole_without_a_value_is_an_error():
    with pytest.raises(KeyError):
        kubernetes.fill("a: ${hole}", {})
