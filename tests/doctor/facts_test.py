"""What is gathered: from real folders, from a stand-in for kubectl, and from TensorFlow in a
child.
"""

import errno
import fcntl
import json
import os
import sys
import textwrap

import pytest

from tests import datasets
from trainer import config as configuration
from trainer.doctor import cluster, facts, sight

# --- packages, workers, data ----------------------------------------------------------------------


def test_packages_are_those_that_are_installed():
    import keras

    found = facts.packages()
    assert found["keras"] == keras.__version__
    assert len(set(facts.TENSORFLOWS) & set(found)) == 1 and set(found) <= {
        *facts.TENSORFLOWS,
        "keras",
        "tensorboard",
    }


@pytest.mark.parametrize(
    "flags, environ, workers",
    [
        ({}, {}, 1),
        ({"num_workers": 3}, {}, 3),
        ({}, {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 0}}'}, 2),
        ({"num_workers": 4}, {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'}, 4),
        ({}, {"TF_CONFIG": "{}"}, 1),
        ({}, {"TF_CONFIG": "no json"}, 1),
    ],
)
def test_workers_are_counted_from_flags_and_tf_config(flags, environ, workers):
    assert facts.workers(configuration.Gang(**flags), environ) == workers


def test_a_dataset_is_measured_and_a_damaged_one_named(tmp_path):
    datasets.write(tmp_path / "d", datasets.random_splits(), vocabulary_size=30, classes=3)
    assert (
        facts.data(str(tmp_path / "d"))
        == facts.described(str(tmp_path / "d"))
        == facts.Data(50, 30, 3)
    )
    (tmp_path / "d/vocabulary.txt").write_text("short\n")
    assert "vocabulary.txt" in facts.data(str(tmp_path / "d"))
    assert "no dataset.json" in facts.data(str(tmp_path)) and "no dataset.json" in facts.described(
        str(tmp_path)
    )
    assert facts.data("") == "--data_dir is not given"


# --- the model folder -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", "run", "deep/er/run"])
def test_a_good_folder_passes_and_is_left_as_it_was(tmp_path, name):
    found = facts.folder(str(tmp_path / name))
    assert found.problems == {} and found.probed == tmp_path and found.free > 0
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert facts.folder(str(tmp_path / "file")).problems == {"make a folder in": "Not a directory"}


@pytest.mark.parametrize(
    "module, function, what",
    [(os, "fsync", "sync"), (fcntl, "flock", "lock"), (os, "rename", "rename a folder in")],
)
def test_what_the_file_system_refuses_is_named_with_its_reason(
    tmp_path, monkeypatch, module, function, what
):
    def refuse(*arguments):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(module, function, refuse)
    assert facts.folder(str(tmp_path)).problems == {what: "Operation not supported"}
    assert not list(tmp_path.iterdir())


def test_a_lock_that_two_get_at_once_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)
    assert facts.folder(str(tmp_path)).problems == {"lock": "two holders got the same lock"}


def test_committed_checkpoints_are_counted(tmp_path):
    for name in (
        "checkpoints/step-00000001",
        "checkpoints/step-00000002",
        "best/step-00000001",
        "checkpoints/step-00000003.tmp-2",
        "checkpoints/step-00000004.damaged-1",
    ):
        (tmp_path / name).mkdir(parents=True)
    assert facts.checkpoints(str(tmp_path)) == 3
    assert facts.checkpoints(str(tmp_path / "nowhere")) == 0


# --- TensorFlow -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell, jit, implementation", [("lstm", "auto", "ours"), ("gru", "off", "keras")]
)
def test_tensorflow_reports_what_it_sees_and_which_implementation_it_would_use(
    cell, jit, implementation
):
    said = sight.look("auto", cell, jit)
    assert (
        said["visible"]["CPU"] >= 1
        and said["backend"] == "tensorflow"
        and said["implementation"][0] == implementation
    )


def test_a_child_that_dies_at_the_import_is_told_as_a_fact(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho noise >&2\necho 'Illegal instruction' >&2\nkill -ILL $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert (
        facts.sight(configuration.Run(), "lstm")
        == "importing TensorFlow ended with code -4: Illegal instruction"
    )


# --- the cluster ----------------------------------------------------------------------------------

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
            f"{AT} auth can-i get pods --subresource=log": ["no", "", 1],
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
                            "status": {
                                "hard": {"pods": "10", "limits.cpu": "4"},
                                "used": {"pods": "3"},
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


def test_the_cluster_is_asked_for_permissions_level_queues_and_quotas(kubectl):
    kubectl()
    assert cluster.look("", "") == cluster.Cluster(
        "kit",
        "team",
        "",
        denied=("get pods/log",),
        pod_security="restricted",
        queues=("gpus",),
        quotas={"pods": ("3", "10"), "limits.cpu": ("0", "4")},
    )


def test_context_and_namespace_of_the_flags_come_before_those_of_kubectl(kubectl):
    kubectl(**{"--context=other --namespace=mine version --output=json": "{}"})
    found = cluster.look("other", "mine")
    assert (found.context, found.namespace, found.problem) == ("other", "mine", "")


def test_what_is_absent_or_may_not_be_read_is_none(kubectl):
    forbidden = ["", "Error from server (Forbidden)", 1]
    kubectl(
        **{
            f"{AT} get {what} --output=json": forbidden
            for what in ("namespace team", "localqueues.kueue.x-k8s.io", "resourcequotas")
        }
    )
    found = cluster.look("", "")
    assert (found.pod_security, found.queues, found.quotas) == (None, None, {})


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


@pytest.mark.parametrize(
    "text, number",
    [("3", 3), ("1500m", 1.5), ("2k", 2000), ("1Gi", 2**30), ("2.5G", 2.5e9), ("0", 0)],
)
def test_quantities_are_read_as_kubernetes_writes_them(text, number):
    assert cluster.quantity(text) == number
