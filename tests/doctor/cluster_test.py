"""What doctor reads of a cluster, from a stand-in for kubectl that answers from a table."""

import json
import os
import re
import sys
import textwrap

import pytest
import yaml

from tests import commands
from trainer.doctor import cluster
from trainer.doctor.quotas import Quota

KUBECTL = textwrap.dedent("""\
    #!{python} -IS
    import json, sys
    words = [word for word in sys.argv[1:] if word != "--request-timeout=5s"]
    answers = json.load(open({answers!r}))
    out, err, code = answers.get(" ".join(words), ["", "Error from server (NotFound)", 1])
    print(out)
    print(err, file=sys.stderr)
    sys.exit(code)
    """)
AT = "--context=kit --namespace=team"
# In the namespace; without them a check says that it could not look.
READ_BY_DOCTOR = (
    ("list", "resourcequotas"),
    ("list", "limitranges"),
    ("list", "localqueues.kueue.x-k8s.io"),
)


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """Puts a kubectl alone on the PATH that answers from a table {arguments: text or [text, error,
    exit code]}.
    """

    def answering(**changed):
        program, answers = tmp_path / "bin/kubectl", tmp_path / "answers"
        program.parent.mkdir(exist_ok=True)
        program.write_text(KUBECTL.format(python=sys.executable, answers=str(answers)))
        program.chmod(0o755)
        table = {
            "config current-context": "kit",
            "--context=kit config view --minify --output=jsonpath={..namespace}": "team",
            f"{AT} version --output=json": "{}",
            **{
                f"{AT} auth can-i {verb} {resource}": "yes"
                for verb, resource in cluster.PERMISSIONS
            },
            f"{AT} auth can-i create pods --subresource=exec": "yes",
            f"{AT} auth can-i get pods --subresource=log": ["no", "", 1],
            f"{AT} api-versions": "apps/v1\nbatch/v1",
            f"{AT} get namespace team --output=json": json.dumps(
                {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
            ),
            f"{AT} get localqueues.kueue.x-k8s.io --output=json": json.dumps(
                {"items": [{"metadata": {"name": "gpus"}}]}
            ),
            f"{AT} get resourcequotas --output=json": json.dumps(
                {
                    "items": [
                        {
                            "metadata": {"name": "small"},
                            "status": {
                                "hard": {"pods": "10", "limits.cpu": "4"},
                                "used": {"pods": "3"},
                            },
                        }
                    ]
                }
            ),
            f"{AT} get priorityclasses --output=json": json.dumps(
                {
                    "items": [
                        {"metadata": {"name": "high"}, "value": 9},
                        {"metadata": {"name": "newer"}, "value": 5, "globalDefault": True},
                        {"metadata": {"name": "usual"}, "value": 2, "globalDefault": True},
                    ]
                }
            ),
            f"{AT} get limitranges --output=json": json.dumps(
                {
                    "items": [
                        {
                            "spec": {
                                "limits": [
                                    {"type": "Container", "default": {"cpu": "1"}},
                                    {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
                                ]
                            }
                        }
                    ]
                }
            ),
            **changed,
        }
        answers.write_text(
            json.dumps(
                {
                    call: [answer, "", 0] if isinstance(answer, str) else answer
                    for call, answer in table.items()
                }
            )
        )
        monkeypatch.setenv("PATH", str(program.parent))

    return answering


def test_permissions_level_queues_and_quotas_are_read(kubectl):
    kubectl()
    assert cluster.look("", "") == cluster.Cluster(
        "kit",
        "team",
        "",
        denied=("get pods/log",),
        pod_security="restricted",
        queues=("gpus",),
        quotas=(Quota("small", {"pods": ("3", "10"), "limits.cpu": ("0", "4")}),),
        ranges=({"type": "Container", "default": {"cpu": "1"}},),
        default_class="usual",
    )


def test_the_role_in_the_documents_has_exactly_these_permissions():
    page = (commands.PROJECT / "docs/cluster.md").read_text(encoding="utf-8")
    [role] = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", page, re.S)
    allowed = [
        (verb, ".".join(filter(None, (resource, group))))
        for rule in yaml.safe_load(role)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    asked = cluster.PERMISSIONS + cluster.JOBSET_PERMISSIONS + cluster.QUEUE_PERMISSIONS
    assert sorted(allowed) == sorted({*asked, *READ_BY_DOCTOR})


def test_workloads_are_asked_about_for_a_job_with_a_queue(kubectl):
    kubectl(**{f"{AT} api-versions": "batch/v1\nkueue.x-k8s.io/v1beta1"})
    assert "list workloads.kueue.x-k8s.io" in cluster.look("", "", "gpus").denied
    assert "list workloads.kueue.x-k8s.io" not in cluster.look("", "").denied


def test_jobsets_are_asked_about_where_they_exist(kubectl):
    kubectl(
        **{
            f"{AT} api-versions": "batch/v1\njobset.x-k8s.io/v1alpha2",
            f"{AT} auth can-i create jobsets.jobset.x-k8s.io": "yes",
        }
    )
    denied = cluster.look("", "").denied
    assert "patch jobsets.jobset.x-k8s.io" in denied
    assert "create jobsets.jobset.x-k8s.io" not in denied


def test_context_and_namespace_of_the_flags_come_before_those_of_kubectl(kubectl):
    kubectl(**{"--context=other --namespace=mine version --output=json": "{}"})
    found = cluster.look("other", "mine")
    assert (found.context, found.namespace, found.problem) == ("other", "mine", "")


def test_what_is_absent_or_may_not_be_read_is_none(kubectl):
    forbidden = ["", "Error from server (Forbidden)", 1]
    kubectl(
        **{
            f"{AT} get {what} --output=json": forbidden
            for what in (
                "namespace team",
                "localqueues.kueue.x-k8s.io",
                "resourcequotas",
                "limitranges",
                "priorityclasses",
            )
        }
    )
    found = cluster.look("", "")
    assert (found.pod_security, found.queues, found.quotas) == (None, None, None)
    assert (found.ranges, found.default_class) == (None, None)


def test_pods_have_no_priority_class_if_none_is_the_default(kubectl):
    kubectl(**{f"{AT} get priorityclasses --output=json": '{"items": []}'})
    assert cluster.look("", "").default_class == ""


def test_a_namespace_without_a_label_enforces_nothing(kubectl):
    kubectl(**{f"{AT} get namespace team --output=json": '{"metadata": {}}'})
    assert cluster.look("", "").pod_security == ""


def test_a_cluster_that_does_not_answer_is_a_problem_in_its_words(kubectl):
    kubectl(
        **{
            f"{AT} version --output=json": [
                "",
                "E1124 retrying\nThe connection to the server was refused",
                1,
            ]
        }
    )
    assert cluster.look("", "") == cluster.Cluster(
        "kit", "team", "The connection to the server was refused"
    )


def test_without_kubectl_or_context_there_is_nothing_to_ask(kubectl, tmp_path, monkeypatch):
    kubectl(**{"config current-context": ["", "error: current-context is not set", 1]})
    assert "no context" in cluster.look("", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster.look("", "") == "kubectl is not on the PATH"


def test_a_kubectl_that_hangs_is_a_problem_and_not_a_wait(kubectl, tmp_path, monkeypatch):
    kubectl()
    program = tmp_path / "bin/kubectl"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import sys, time\n"
        "'version' in sys.argv and time.sleep(60)\n"
        "print('kit')\n"
    )
    monkeypatch.setattr(cluster, "_SECONDS", 2.0)
    assert cluster.look("", "").problem == "no answer within 2 s"


@pytest.fixture
def typed():
    """Makes our standard input a pipe with something in it, which a child would inherit."""
    reading, writing = os.pipe()
    os.write(writing, b"typed")
    os.close(writing)
    before = os.dup(0)
    os.dup2(reading, 0)
    yield
    os.dup2(before, 0)
    os.close(before)
    os.close(reading)


def test_kubectl_has_no_standard_input_and_so_cannot_wait_for_a_password(kubectl, tmp_path, typed):
    kubectl()
    program = tmp_path / "bin/kubectl"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import sys\n"
        "print(sys.stdin.read() or 'kit')\n"
        "sys.exit('config' not in sys.argv)\n"
    )
    assert cluster.look("", "").context == "kit"
