"""What Kueue reads from a job: its queue, priority, topology and maximum time.

https://kueue.sigs.k8s.io/docs/reference/labels-and-annotations/
"""

import re

from trainer.exit_codes import UsageError
from trainer.flags.submit import Submit
from trainer.launch.values import DNS_SUBDOMAIN, LABEL_KEY, require

PREFIX = "kueue.x-k8s.io/"
_TOPOLOGY = re.compile(rf"(?P<rule>required|preferred):(?P<level>{LABEL_KEY})")


def check(submit: Submit) -> None:
    """Raises UsageError if a flag of Kueue is not well-formed, or is given without a queue."""
    for name in ("queue", "queue_priority"):
        require(
            not getattr(submit, name) or DNS_SUBDOMAIN.fullmatch(getattr(submit, name)),
            name,
            getattr(submit, name),
            "must be the name of an object: lower-case letters, digits, - and .",
        )
    require(
        not submit.queue_topology or _TOPOLOGY.fullmatch(submit.queue_topology),
        "queue_topology",
        submit.queue_topology,
        "must be required:LEVEL or preferred:LEVEL, with a label of nodes as LEVEL, for example "
        "required:cloud.google.com/gce-topology-block",
    )
    for name in ("queue_priority", "queue_topology", "queue_seconds"):
        if getattr(submit, name) and not submit.queue:
            raise UsageError(
                f"--{name}={getattr(submit, name)}: Kueue reads it only from a job with a queue. "
                "Name one with --queue, or leave it out."
            )


def job_labels(submit: Submit) -> dict[str, str]:
    """Returns the labels of the Job or JobSet."""
    values = {
        "queue-name": submit.queue,
        "priority-class": submit.queue_priority,
        "max-exec-time-seconds": str(submit.queue_seconds or ""),
    }
    return {f"{PREFIX}{name}": value for name, value in values.items() if value}


def pod_annotations(submit: Submit) -> dict[str, str]:
    """Returns the annotations of the workers' pods."""
    found = _TOPOLOGY.fullmatch(submit.queue_topology)
    return {f"{PREFIX}podset-{found['rule']}-topology": found["level"]} if found else {}
