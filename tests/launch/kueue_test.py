import pytest

from trainer.exit_codes import UsageError
from trainer.flags.submit import Submit
from trainer.launch import kueue


def test_a_job_has_the_labels_of_its_queue():
    submit = Submit(queue="team", queue_priority="high", queue_seconds=3600)
    assert kueue.job_labels(submit) == {
        "kueue.x-k8s.io/queue-name": "team",
        "kueue.x-k8s.io/priority-class": "high",
        "kueue.x-k8s.io/max-exec-time-seconds": "3600",
    }
    assert kueue.job_labels(Submit()) == {}


@pytest.mark.parametrize("rule", ["required", "preferred"])
def test_pods_have_the_topology_that_kueue_places_them_in(rule):
    submit = Submit(queue="team", queue_topology=f"{rule}:example.com/rack")
    kueue.check(submit)
    assert kueue.pod_annotations(submit) == {
        f"kueue.x-k8s.io/podset-{rule}-topology": "example.com/rack"
    }
    assert kueue.pod_annotations(Submit()) == {}


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"queue": "My Team"}, "--queue=My Team: must be the name of an object"),
        ({"queue_priority": "high"}, "--queue_priority=high: Kueue reads it only from a job with"),
        ({"queue_seconds": 60}, "--queue_seconds=60: Kueue reads it only from a job with a queue"),
        (
            {"queue_topology": "required:rack"},
            "--queue_topology=required:rack: Kueue reads it only from a job with a queue. Name one",
        ),
        (
            {"queue": "team", "queue_topology": "rack"},
            "--queue_topology=rack: must be required:LEVEL or preferred:LEVEL",
        ),
    ],
)
def test_a_flag_of_kueue_that_nothing_would_read_is_refused(flags, told):
    with pytest.raises(UsageError) as problem:
        kueue.check(Submit(**flags))
    assert told in str(problem.value)
