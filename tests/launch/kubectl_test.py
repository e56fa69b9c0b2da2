"""Jobs on a cluster, against a recorded kubectl on the PATH; tests/cluster uses a real one."""

import json
import pathlib
import re

import pytest
import yaml

from trainer import main
from trainer.doctor import cluster
from trainer.launch import kubectl

# Answers `get` from files in $FAKE that are numbered by the turns of a follower, the last of which
# stays; records every call.
FAKE = """#!/bin/sh
echo "$*" >>"$FAKE/calls"
turn=$(cat "$FAKE/turn" 2>/dev/null || echo 1)
answer() {
  n=$turn
  while [ $n -gt 1 ] && [ ! -e "$FAKE/$1.$n" ]; do n=$((n - 1)); done
  cat "$FAKE/$1.$n" 2>/dev/null || :
}
case " $* " in
*" get jobset"*)
  if [ ! -e "$FAKE/has-jobset" ]; then
    echo "error: the server doesn't have a resource type \\"jobset\\"" >&2
    exit 1
  fi
  answer jobset ;;
*" get job"*) answer job ;;
*" get events "*) answer events ;;
*" get workloads"*) answer workloads ;;
*" get service,"*) cat "$FAKE/belongings" 2>/dev/null || : ;;
*" api-versions "*) cat "$FAKE/api-versions" 2>/dev/null || : ;;
*" get pods "*)
  answer pods
  echo $((turn + 1)) >"$FAKE/turn"
  [ ! -e "$FAKE/away.$turn" ] || exit 1 ;;
*" logs "*) for pod; do :; done; cat "$FAKE/log.$pod"
  if [ -e "$FAKE/broken" ]; then rm "$FAKE/broken"; echo "third" >>"$FAKE/log.$pod"; exit 1; fi ;;
*" exec "*) cat "$FAKE/report" 2>/dev/null || exit 1 ;;
*" create "*)
  cat "$FAKE/warning" >&2 2>/dev/null || :
  [ ! -e "$FAKE/refusal" ] || { cat "$FAKE/refusal" >&2; exit 1; } ;;
*" apply "*)
  cat >"$FAKE/sent"
  if [ -e "$FAKE/half" ]; then cp "$FAKE/half" "$FAKE/job.1"; cat "$FAKE/half.told" >&2; exit 1; fi
  echo "job.batch/words applied" ;;
esac
"""
SUBMIT = ["submit", "--name=words", "--image=r/t:1", "--volume=pvc:claim:/data"]
TRAIN = ["--", "train", "--data_dir=/demo/words", "--model_dir=/data/m"]


@pytest.fixture
def fake(tmp_path, monkeypatch) -> pathlib.Path:
    program = tmp_path / "bin/kubectl"
    program.parent.mkdir()
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(kubectl, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(kubectl, "EXPLAIN_SECONDS", 0.0)
    return tmp_path


def calls(fake) -> list[str]:
    return (fake / "calls").read_text().splitlines()


def job(*conditions, suspend=False) -> str:
    return json.dumps(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": "words",
                "uid": "u-1",
                "namespace": "team",
                "creationTimestamp": "2026-01-02T03:04:05Z",
            },
            "spec": {"suspend": suspend},
            "status": {
                "conditions": [
                    {"type": name, "status": "True", "reason": reason, "message": "told"}
                    for name, reason in conditions
                ]
            },
        }
    )


def pod(
    index, code=None, finished="", created="1", waiting=None, unscheduled=None, disrupted=False
) -> dict:
    state = (
        {"terminated": {"exitCode": code, "finishedAt": finished, "reason": "Error"}}
        if code is not None
        else {"waiting": {"reason": waiting, "message": "told"}}
        if waiting
        else {"running": {}}
    )
    phase = (
        "Pending"
        if waiting or unscheduled
        else "Running"
        if code is None
        else "Failed"
        if code
        else "Succeeded"
    )
    conditions = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": unscheduled,
        }
    ]
    if not unscheduled:
        conditions = [{"type": "DisruptionTarget", "status": "True"}] if disrupted else []
    return {
        "metadata": {
            "name": f"words-{index}-{created}",
            "creationTimestamp": created,
            "labels": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "spec": {"nodeName": "node-1", "containers": [{"args": ["train", "--model_dir=/data/m"]}]},
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [] if unscheduled else [{"state": state}],
        },
    }


def pods(*items) -> str:
    return json.dumps({"items": items})


def lay(fake, **files) -> None:
    for name, text in files.items():
        (fake / name.replace("__", ".").replace("_", "-", name.count("log__"))).write_text(text)


# --- apply ----------------------------------------------------------------------------------------


def test_a_job_is_applied_after_a_dry_run_and_the_next_commands_are_printed(fake, capsys):
    assert main.main([*SUBMIT, "--context=c", "--namespace=team", "--apply", *TRAIN]) == 0
    where = "--context=c --namespace=team"
    assert [call for call in calls(fake) if " apply " in call or " create " in call] == [
        f"{where} create --filename=- --dry-run=server",
        f"{where} apply --server-side --force-conflicts --field-manager=rnn-trainer --filename=-",
    ]
    assert main.main([*SUBMIT, *TRAIN]) == 0
    told, manifest = (
        capsys.readouterr().out.split("\n# TensorFlow's server")[0],
        (fake / "sent").read_text(),
    )
    assert "kind: Job" in manifest
    for line in (
        "watch        python -m trainer submit --context=c --namespace=team --status=words",
        "TensorBoard  scripts/tensorboard.sh words:/data/m --context=c --namespace=team   (or "
        "submit with --tensorboard)",
        "stop         python -m trainer submit --context=c --namespace=team --stop=words",
    ):
        assert line in told


@pytest.mark.parametrize(
    "file, text, told",
    [
        # The API server accepts such a job with a warning, and its pods are refused.
        (
            "warning",
            'Warning: would violate PodSecurity "restricted:latest": runAsUser=0\n',
            "The Pod Security level of the namespace forbids such pods",
        ),
        ("refusal", "Error from server (Forbidden): no", "Error from server (Forbidden): no"),
        (
            "refusal",
            'Error: jobs "words" is forbidden: exceeded quota: team, requested: count/jobs=1',
            "The quota team of the namespace has no room for this. Wait until other jobs end",
        ),
    ],
)
def test_what_the_cluster_refuses_is_not_sent(fake, capsys, file, text, told):
    (fake / file).write_text(text)
    assert main.main([*SUBMIT, "--apply", *TRAIN]) == 2
    error = capsys.readouterr().err
    assert text.strip() in error and told in error
    assert not (fake / "sent").exists()


def test_of_a_job_that_is_refused_in_part_nothing_is_left(fake, capsys):
    told = 'Error: services "words-chief" is forbidden: exceeded quota: team'
    lay(fake, half=job(), half__told=told)
    assert main.main([*SUBMIT, "--apply", *TRAIN]) == 2
    assert told in capsys.readouterr().err
    assert [call for call in calls(fake) if call.startswith("delete")][-2:] == [
        "delete job.batch words --cascade=foreground",
        f"delete {BELONGINGS} {SELECTOR}",
    ]


def test_other_warnings_of_the_cluster_are_printed_and_do_not_stop_a_job(fake, capsys):
    warning = "autopilot-default-resources-mutator: defaulted unspecified resources"
    (fake / "warning").write_text(f"Warning: {warning}\n")
    assert main.main([*SUBMIT, "--apply", *TRAIN]) == 0
    assert f"the cluster warns: {warning}" in capsys.readouterr().err
    assert (fake / "sent").exists()


def test_a_job_that_ended_may_be_replaced_by_another_one(fake, capsys):
    """The API server would not change its pods; that it exists is no refusal."""
    exists = 'Error from server (AlreadyExists): jobs.batch "words" already exists\n'
    (fake / "job.1").write_text(job(("Failed", "PodFailurePolicy")))
    (fake / "refusal").write_text(exists)
    assert main.main([*SUBMIT, "--env=A=b", "--apply", *TRAIN]) == 0
    assert "delete job.batch words --cascade=foreground" in calls(fake)
    (fake / "refusal").write_text(exists + "Error from server (Invalid): no such thing\n")
    assert main.main([*SUBMIT, "--env=A=b", "--apply", *TRAIN]) == 2
    error = capsys.readouterr().err
    assert "the cluster refuses the job: Error from server (Invalid): no such thing" in error


@pytest.mark.parametrize(
    "versions, flags, warned",
    [
        ("apps/v1\nauto.gke.io/v1\n", ["--gpus=1"], True),
        ("apps/v1\n", ["--gpus=1"], False),
        (
            "auto.gke.io/v1\n",
            ["--gpus=1", "--node_selector=cloud.google.com/gke-accelerator=nvidia-l4"],
            False,
        ),
        ("auto.gke.io/v1\n", [], False),
    ],
)
def test_autopilot_is_told_which_gpus_to_make(fake, capsys, versions, flags, warned):
    (fake / "api-versions").write_text(versions)
    assert main.main([*SUBMIT, *flags, "--apply", *TRAIN]) == 0
    assert ("the cluster is GKE Autopilot" in capsys.readouterr().err) is warned


SELECTOR = "--selector=app.kubernetes.io/name=rnn-trainer,app.kubernetes.io/instance=words"
BELONGINGS = "service,networkpolicy,secret,deployment"


def test_a_job_owns_what_belongs_to_it(fake):
    """So the cluster deletes all together, and nothing of an earlier job has another owner."""
    program = fake / "bin/kubectl"  # The job is there once it has been sent.
    program.write_text(
        program.read_text().replace(
            '*" get job"*) answer job ;;', '*" get job"*) [ ! -e "$FAKE/sent" ] || answer job ;;'
        )
    )
    lay(fake, job__1=job(), belongings="service/words\nsecret/words-gang\n")
    assert main.main([*SUBMIT, "--apply", *TRAIN]) == 0
    made = [call for call in calls(fake) if "get job" not in call]
    assert [call.split(" ")[0] for call in made] == ["create", "delete", "apply", "get", "patch"]
    assert made[1] == f"delete {BELONGINGS} {SELECTOR}"
    assert made[3] == f"get {BELONGINGS} {SELECTOR} --output=name"
    command, patch = made[4].split(" --patch=")
    assert command == "patch service/words secret/words-gang --type=merge"
    assert json.loads(patch) == {
        "metadata": {
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": "words", "uid": "u-1"}
            ]
        }
    }


def test_a_running_job_is_not_touched_and_one_that_ended_is_replaced(fake, capsys):
    (fake / "job.1").write_text(job())
    assert main.main([*SUBMIT, "--apply", *TRAIN]) == 2
    assert "--name=words: a job of this name is still running" in capsys.readouterr().err
    assert not any("apply" in call or "delete" in call for call in calls(fake))
    (fake / "job.1").write_text(job(("Failed", "BackoffLimitExceeded")))
    assert main.main([*SUBMIT, "--apply", *TRAIN]) == 0
    assert "delete job.batch words --cascade=foreground" in calls(fake)


def test_without_kubectl_the_answer_says_so(fake, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main.main([*SUBMIT, "--apply", *TRAIN]) == 2
    assert "kubectl: not on the PATH" in capsys.readouterr().err


# --- follow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end, last_pods, code",
    [
        (("Complete", "CompletionsReached"), [pod(0, 0), pod(1, 0)], 0),
        (
            ("Complete", "CompletionsReached"),
            [pod(0, 75, "t1"), pod(0, 0, created="2"), pod(1, 0)],
            0,
        ),
        # The lost peer is no cause.
        (("Failed", "PodFailurePolicy"), [pod(0, 2, "t2"), pod(1, 75, "t1")], 2),
        (
            ("Failed", "PodFailurePolicy"),
            [pod(0, 143, "t1"), pod(1, 3, "t2"), pod(0, 4, "t3", created="2")],
            3,
        ),
        (("Failed", "BackoffLimitExceeded"), [pod(0, 137, "t2"), pod(1, 1, "t1")], 1),
        # A node was drained, which a job does not count.
        (
            ("Failed", "PodFailurePolicy"),
            [pod(0, 137, "t1", disrupted=True), pod(0, 4, "t2", created="2")],
            4,
        ),
        (("Failed", "PodFailurePolicy"), [pod(0, 4, "t1", disrupted=True), pod(1, 1, "t2")], 4),
        (("Failed", "DeadlineExceeded"), [pod(0, 75, "t1")], 75),
        (("Failed", "DeadlineExceeded"), [], 1),
    ],
)
def test_following_ends_with_the_exit_code_of_the_job(fake, capsys, end, last_pods, code):
    lay(fake, job__1=job(), job__2=job(end), pods__1=pods(pod(0), pod(1)), pods__2=pods(*last_pods))
    for one in (pod(0), pod(1), *last_pods):
        (fake / f"log.{one['metadata']['name']}").write_text("epoch 1\nepoch 2\n")
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == code
    assert {"[0] epoch 1", "[0] epoch 2", "[1] epoch 2"} <= set(
        capsys.readouterr().out.splitlines()
    )


def test_each_line_is_printed_once_and_pods_that_come_later_are_read_too(fake, capsys):
    lay(
        fake,
        job__1=job(),
        job__4=job(("Complete", "")),
        pods__1=pods(pod(0)),
        pods__2=pods(pod(0, 75, "t1")),
        pods__3=pods(pod(0, 75, "t1"), pod(0, created="2")),
        pods__4=pods(pod(0, 75, "t1"), pod(0, 0, created="2")),
    )
    (fake / "log.words-0-1").write_text("first\n")
    (fake / "log.words-0-2").write_text("second\n")
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["[0] first", "[0] second"]


def test_a_connection_that_breaks_loses_no_line_and_doubles_none(fake, capsys, monkeypatch):
    lay(fake, job__1=job(), job__9=job(("Complete", "")), pods__1=pods(pod(0)), broken="")
    (fake / "log.words-0-1").write_text("first\nsecond\n")
    monkeypatch.setattr(kubectl, "POLL_SECONDS", 0.1)
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == 0
    assert capsys.readouterr().out.splitlines() == ["[0] first", "[0] second", "[0] third"]


@pytest.mark.parametrize("patience, code", [(60.0, 0), (0.0, 2)])
def test_an_api_server_may_be_away_for_a_while(fake, monkeypatch, patience, code):
    lay(
        fake,
        job__1=job(),
        job__4=job(("Complete", "")),
        pods__1=pods(pod(0)),
        away__2="",
        away__3="",
    )
    (fake / "log.words-0-1").write_text("")
    monkeypatch.setattr(kubectl, "PATIENCE_SECONDS", patience)
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == code


def test_the_reason_why_a_worker_waits_is_logged_once(fake, capsys):
    waits = pods(
        pod(0, unscheduled="0/2 nodes have a GPU"),
        pod(1, waiting="ImagePullBackOff"),
        pod(2, waiting="ContainerCreating"),
    )
    lay(fake, job__1=job(), job__4=job(("Failed", "DeadlineExceeded")), pods__1=waits)
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if " waits: " in line]
    assert [line.split(" ", 1)[1] for line in lines] == [
        "worker 0 waits: Unschedulable: 0/2 nodes have a GPU. No node can take the pod. See "
        "`kubectl describe nodes`, and wait for the autoscaler if there is one.",
        "worker 1 waits: ImagePullBackOff: told. The node cannot pull the image. Check "
        "--image, --stage_image and --pull_secret, and that the node reaches the registry.",
    ]


def refused(reason="FailedCreate", message="exceeded quota: team, requested: pods=1") -> str:
    return json.dumps(
        {
            "items": [
                {
                    "involvedObject": {"kind": "Job", "name": "words"},
                    "reason": reason,
                    "message": f'Error creating: pods "words-0-x" is forbidden: {message}',
                    "lastTimestamp": "2026-01-02T03:04:06Z",
                    "metadata": {},
                }
            ]
        }
    )


def test_a_job_that_gets_no_pod_is_explained_while_it_is_followed(fake, capsys):
    lay(
        fake,
        job__1=job(),
        job__4=job(("Failed", "DeadlineExceeded")),
        pods__1=pods(),
        events__1=refused(),
    )
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if " waits: " in line]
    assert line.split(" ", 1)[1].startswith(
        "words waits: FailedCreate: no pod: exceeded quota: team, requested: pods=1. The quota "
        "team of the namespace has no room for this. Wait until other jobs end, lower --cpu"
    )


def test_a_reason_that_passes_by_is_not_logged(fake, capsys):
    lay(
        fake,
        job__1=job(),
        job__4=job(("Complete", "")),
        pods__1=pods(pod(0, unscheduled="no room")),
        pods__2=pods(pod(0)),
    )
    (fake / "log.words-0-1").write_text("")
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == 0
    assert " waits: " not in capsys.readouterr().err


def test_a_job_that_kueue_never_lets_run_again_ends_its_follower(fake, capsys):
    conditions = [{"type": "DeactivationTarget", "reason": "MaximumExecutionTimeExceeded"}]
    workload = {"spec": {"active": False}, "status": {"conditions": conditions}}
    lay(
        fake,
        job__1=job(),
        job__2=job(suspend=True),
        pods__1=pods(pod(0, 143)),
        workloads__1=json.dumps({"items": [workload]}),
    )
    (fake / "log.words-0-1").write_text("stopped\n")
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == 143
    assert "The job ran for --queue_seconds" in capsys.readouterr().err


def test_a_job_that_is_deleted_ends_its_follower(fake):
    lay(fake, job__1=job(), job__2="", pods__1=pods(pod(0)))
    (fake / "log.words-0-1").write_text("")
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == 143


def test_ctrl_c_leaves_the_job_running(fake, monkeypatch, capsys):
    lay(fake, job__1=job(), pods__1=pods(pod(0)))
    (fake / "log.words-0-1").write_text("")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(kubectl.time, "sleep", interrupt)
    assert main.main([*SUBMIT, "--follow", *TRAIN]) == 130
    assert (
        "words keeps running; see --status=words, or end it with --stop=words"
        in capsys.readouterr().err
    )
    assert not any("delete" in call for call in calls(fake))


# --- stop and status ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, name", [("job", "job.batch"), ("jobset", "jobset.jobset.x-k8s.io")])
def test_stopping_waits_for_the_workers_and_keeps_the_volumes(fake, capsys, kind, name):
    lay(fake, **{f"{kind}__1": job(), "has-jobset": "", "pods__1": pods(pod(0))})
    lay(fake, belongings="service/words\n")
    (fake / "log.words-0-1").write_text("stopped step=7 state_digest=ab\n")
    assert main.main(["submit", "--stop=words"]) == 0
    changed = [call for call in calls(fake) if call.startswith(("delete", "patch"))]
    # The workers need the Service until they have ended, so the job must not take it along.
    assert changed == [
        'patch service/words --type=merge --patch={"metadata": {"ownerReferences": []}}',
        f"delete {name} words --cascade=foreground --wait=true",
        f"delete {BELONGINGS} {SELECTOR}",
    ]
    assert capsys.readouterr().out.splitlines() == [
        "[0] stopped step=7 state_digest=ab",
        "words is stopped; its volumes stay, and the same submit continues it.",
    ]


def test_stopping_a_job_that_is_gone_deletes_what_it_has_left(fake, capsys):
    lay(fake, belongings="service/words\nsecret/words-gang\n")
    assert main.main(["submit", "--stop=words"]) == 0
    assert "deleting what it has left: service/words, secret/words-gang" in capsys.readouterr().err
    assert [call for call in calls(fake) if call.startswith("delete")] == [
        f"delete {BELONGINGS} {SELECTOR}"
    ]


@pytest.mark.parametrize("flag", ["--stop=words", "--status=words"])
def test_a_job_that_does_not_exist_is_a_mistake(fake, capsys, flag):
    assert main.main(["submit", flag, "--namespace=team"]) == 2
    assert f"{flag}: there is no such job in namespace team" in capsys.readouterr().err
    assert main.main(["submit", flag, "--", "train"]) == 2


def test_status_shows_the_job_in_ten_lines(fake, capsys):
    many = [pod(index) for index in range(8)] + [
        pod(1, 137, "t1", created="0"),
        pod(9, unscheduled="no room"),
    ]
    report = {
        "attempts": [{"number": 1}, {"number": 3}],
        "step": 40,
        "total": 100,
        "goodput": 0.9123,
    }
    lay(fake, job__1=job(), pods__1=pods(*many), report=json.dumps(report))
    assert main.main(["submit", "--status=words"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "job        words (Job) in team, since 2026-01-02T03:04:05Z",
        "state      8 pod(s) run",
        *(f"worker {index}   words-{index}-1 Running on node-1" for index in range(4)),
        "others     4 Running, 1 Pending",
        "why        worker 9 waits: Unschedulable: no room. No node can take the pod. See `kubectl "
        "describe nodes`, and wait for the autoscaler if there is one.",
        "ends       1; the last: worker 1 with exit code 137 at t1",
        "attempt    3",
        "step       40 of 100",
        "goodput    0.9123",
    ]
    assert any(
        call.startswith("exec words-")
        and call.endswith("-- python -m trainer report --model_dir=/data/m --format=json")
        for call in calls(fake)
    )


@pytest.mark.parametrize(
    "document, state",
    [
        (job(suspend=True), "suspended: waits for its queue"),
        (job(("Complete", "CompletionsReached")), "done CompletionsReached: told"),
        (job(("Failed", "DeadlineExceeded")), "failed DeadlineExceeded: told"),
    ],
)
def test_status_of_a_job_that_does_not_run(fake, capsys, document, state):
    lay(fake, job__1=document, pods__1=pods(pod(0, 0)))
    (fake / "log.words-0-1").write_text("done step=9 state_digest=ab\n")
    assert main.main(["submit", "--status=words"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[1] == f"state      {state}" and lines[-1] == "last line  done step=9 state_digest=ab"
    )


def test_status_says_why_there_is_no_pod(fake, capsys):
    lay(fake, job__1=job(), pods__1=pods(), events__1=refused())
    assert main.main(["submit", "--status=words"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "state      0 pod(s) run"
    assert lines[2].startswith("why        words waits: FailedCreate: no pod: exceeded quota: team")


# --- Permissions ----------------------------------------------------------------------------------

RESOURCES = {
    "job": "jobs.batch",
    "job.batch": "jobs.batch",
    "jobset": "jobsets.jobset.x-k8s.io",
    "jobset.jobset.x-k8s.io": "jobsets.jobset.x-k8s.io",
    "service": "services",
    "secret": "secrets",
    "networkpolicy": "networkpolicies.networking.k8s.io",
    "deployment": "deployments.apps",
}


def requests(call: str, made: list[str]) -> set[tuple[str, str]]:
    """Returns {(verb, resource)} that kubectl 1.32 sends to the API server for a call.

    made: the resources of the manifest on its standard input.
    """
    words = re.split(" -- | --patch=", call)[0].split()
    verb, *words = [word for word in words if not word.startswith("--")]
    if verb in ("create", "apply"):  # An apply makes what is not there, which takes both verbs.
        return {(one, thing) for thing in made for one in ("create", "patch")}
    if verb == "logs":
        return {("get", "pods"), ("get", "pods/log")}
    if verb == "exec":
        return {("get", "pods"), ("create", "pods/exec")}
    if verb == "api-versions":
        return set()
    if verb == "patch":
        things = [RESOURCES[word.partition("/")[0]] for word in words]
        return {(one, thing) for thing in things for one in ("get", "patch")}
    kinds, *names = words
    things = [RESOURCES.get(kind, kind) for kind in kinds.split(",")]
    found = {("get" if names else "list", thing) for thing in things}
    if verb == "delete":  # Then it looks whether they are gone, and waits for what is not.
        waits = ("get", "list", "watch") if names else ("get",)
        found |= {(one, thing) for thing in things for one in ("delete", *waits)}
    return found


def test_doctor_asks_for_the_permissions_that_the_life_of_a_job_takes_and_no_others(fake):
    """The life: a gang replaces one that ended, waits, is followed, looked at and stopped."""
    workload = json.dumps({"items": [{"status": {}}]})
    belongings = "".join(f"{kind}/words\n" for kind in kubectl.OF_A_JOB)
    lay(fake, **{"has-jobset": "", "belongings": belongings})
    report = json.dumps({"attempts": [], "step": 0, "total": 9, "goodput": 1.0})
    there = pods(pod(0), pod(1, waiting="ContainerCreating"))
    lay(fake, pods__1=there, workloads__1=workload, report=report)
    (fake / "log.words-0-1").write_text("epoch 1\n")
    asked = set()
    for kind, flags in (("job", []), ("jobset", ["--jobset"])):
        ended = job(("Failed", "BackoffLimitExceeded"))
        lay(fake, **{f"{kind}__1": ended, "calls": "", "turn": "1"})
        gang = [*SUBMIT, "--workers=2", "--tensorboard", *flags]
        main.main([*gang, "--apply", *TRAIN, "--batch_size=64"])
        for suspend in (True, False):
            lay(fake, **{f"{kind}__1": job(suspend=suspend), f"{kind}__3": ended, "turn": "1"})
            main.main([*gang, "--follow", *TRAIN, "--batch_size=64"])
            (fake / f"{kind}.3").unlink()
            main.main(["submit", "--status=words"])
        main.main(["submit", "--stop=words"])
        (fake / f"{kind}.1").unlink()
        manifest = yaml.safe_load_all((fake / "sent").read_text())
        made = [RESOURCES[document["kind"].lower()] for document in manifest]
        asked |= set().union(*(requests(call, made) for call in calls(fake)))
    assert asked == {*cluster.PERMISSIONS, *cluster.JOBSET_PERMISSIONS, *cluster.QUEUE_PERMISSIONS}


# --- The command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "after `--` comes the command that the job runs, `train` and its flags"),
        (["--", "evaluate"], "evaluate: after `--` comes the command that the job runs"),
        (["--", "train", "--data_dir=/data/d"], "--model_dir is empty"),
        (["--", "train", "--unit=3"], "--unit: no such flag of `train`. Did you mean --units?"),
        (["--", "train", "--batch_size=0"], "--batch_size=0: must be at least 1"),
        (
            ["--", "train", "--workers=2"],
            "--workers: is not a flag of `train` but of `chaos` and `submit`",
        ),
        (["--workers=0", *TRAIN], "--workers=0: must be at least 1"),
        (["--target=moon", *TRAIN], "--target=moon: must be one of"),
        (["--batch_size=3", *TRAIN], "--batch_size: is not a flag of `submit` but of"),
    ],
)
def test_flags_on_either_side_are_checked_before_anything_else(capsys, arguments, told):
    assert main.main([*SUBMIT, *arguments]) == 2
    assert told in capsys.readouterr().err


# --- Copies ---------------------------------------------------------------------------------------


def copying(**state) -> dict:
    """A pod whose second init container is in `state`, so that its trainer waits."""
    waiting = {"waiting": {"reason": "PodInitializing"}}
    made = pod(0, waiting="PodInitializing")
    made["status"]["containerStatuses"] = [
        {"name": "publish", "state": waiting},
        {"name": "trainer", "state": waiting},
    ]
    made["status"]["initContainerStatuses"] = [
        {"name": "tools", "state": {"terminated": {"exitCode": 0}}},
        {"name": "stage-0", "state": state},
    ]
    return made


def test_a_copy_that_failed_is_a_failure_with_its_last_lines():
    ended = {"exitCode": 74, "reason": "Error", "message": "error: gs://b/d: could not be copied"}
    failure = kubectl.failure_of(copying(terminated=ended))
    assert (failure.code, failure.why) == (
        74,
        "stage-0: Error error: gs://b/d: could not be copied",
    )


def test_an_image_of_a_copy_that_cannot_be_pulled_is_no_failure():
    found = copying(waiting={"reason": "ImagePullBackOff", "message": "no such image"})
    assert kubectl.failure_of(found) is None


def test_the_trainer_s_failure_comes_before_that_of_a_copy_beside_it():
    found = pod(0, code=4)
    found["status"]["containerStatuses"] = [
        {"name": "publish", "state": {"terminated": {"exitCode": 74}}},
        {"name": "trainer", "state": {"terminated": {"exitCode": 4}}},
    ]
    assert kubectl.failure_of(found).code == 4
