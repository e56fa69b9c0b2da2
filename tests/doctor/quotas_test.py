"""Which quotas count the pods of a job: the rules of Kubernetes, as a table."""

import pathlib

import pytest
import yaml

from trainer.doctor.quotas import Quota, Scope

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_quota_is_read_with_both_forms_of_its_scopes():
    found = Quota.of(
        {
            "metadata": {"name": "team"},
            "spec": {
                "scopes": ["NotTerminating"],
                "scopeSelector": {
                    "matchExpressions": [
                        {"scopeName": "PriorityClass", "operator": "In", "values": ["a", "b"]},
                        {"scopeName": "NotBestEffort", "operator": "Exists"},
                    ]
                },
            },
            "status": {"hard": {"pods": "10", "cpu": "4"}, "used": {"cpu": "500m"}},
        }
    )
    assert found == Quota(
        "team",
        {"pods": ("0", "10"), "cpu": ("500m", "4")},
        (Scope("NotTerminating"), Scope("PriorityClass", "In", ("a", "b")), Scope("NotBestEffort")),
    )
    assert (found.room("pods"), found.room("cpu")) == (10, 3.5)
    assert str(found.scopes[1]) == "PriorityClass In a, b"


def test_a_quota_that_is_not_measured_yet_counts_nothing():
    assert Quota.of({"metadata": {"name": "new"}, "spec": {"hard": {"pods": "1"}}}).counted == {}


# Pods with a NotIn or a DoesNotExist need not have a class.
# https://kubernetes.io/docs/concepts/policy/resource-quotas/#resource-quota-per-priorityclass
@pytest.mark.parametrize(
    "operator, values, by_class",
    [
        ("In", ("a", "b"), {"a": True, "c": False, "": False, None: None}),
        ("NotIn", ("a", "b"), {"a": False, "c": True, "": True, None: None}),
        ("Exists", (), {"a": True, "": False, None: None}),
        ("DoesNotExist", (), {"a": False, "": True, None: None}),
        ("OfTheFuture", (), {"a": None, "": None}),
    ],
)
def test_a_quota_of_priority_classes_counts_the_pods_of_these(operator, values, by_class):
    scope = Scope("PriorityClass", operator, values)
    assert {name: scope.holds(name) for name in by_class} == by_class


@pytest.mark.parametrize(
    "scopes, counts",
    [
        ((), True),
        (("NotBestEffort", "NotTerminating"), True),
        (("BestEffort",), False),
        (("NotBestEffort", "Terminating"), False),
        (("CrossNamespacePodAffinity",), False),
        (("OfTheFuture",), None),
        (("OfTheFuture", "BestEffort"), False),
        (("OfTheFuture", "NotBestEffort"), None),
    ],
)
def test_a_quota_counts_pods_that_meet_all_of_its_scopes(scopes, counts):
    assert Quota("q", {}, tuple(map(Scope, scopes))).counts("") is counts


@pytest.mark.parametrize("file", ["job", "indexed_job", "jobset", "queued_gpu", "tpu"])
def test_workers_have_requests_and_no_deadline_of_their_own(file):
    """So they are neither BestEffort nor Terminating; the deadline of a Job is not its pods'."""
    documents = yaml.safe_load_all((ROOT / f"k8s/{file}.yaml").read_text(encoding="utf-8"))
    [job] = [one for one in documents if one["kind"] in ("Job", "JobSet")]
    spec = job["spec"]
    if job["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    pod = spec["template"]["spec"]
    assert "activeDeadlineSeconds" not in pod
    assert {"cpu", "memory"} <= pod["containers"][0]["resources"]["requests"].keys()
    terms = pod.get("affinity", {}).get("podAntiAffinity", {})
    assert "namespace" not in str(terms)
