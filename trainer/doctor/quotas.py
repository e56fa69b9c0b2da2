"""What a ResourceQuota counts, and whether that includes the pods of a job.

https://kubernetes.io/docs/concepts/policy/resource-quotas/
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.launch.values import quantity

# {scope: whether the pods of a job are in it}. They request CPUs and memory, the deadline is that
# of the Job and not theirs, and their affinity is to pods of their own namespace. A
# VolumeAttributesClass is that of a volume.
_SCOPES = {
    "Terminating": False,
    "NotTerminating": True,
    "BestEffort": False,
    "NotBestEffort": True,
    "CrossNamespacePodAffinity": False,
    "VolumeAttributesClass": False,
}


@dataclasses.dataclass(frozen=True)
class Scope:
    """A condition on pods: `name` `operator` `values`, for example PriorityClass In high, low."""

    name: str
    operator: str = "Exists"
    values: tuple[str, ...] = ()

    def holds(self, priority_class: str | None) -> bool | None:
        """Returns whether the pods of a job meet the condition; None if that is not known.

        priority_class: theirs; "" if they have none, None if that is not known.
        """
        if self.name != "PriorityClass":
            return _SCOPES.get(self.name)
        if priority_class is None:
            return None
        return {
            "In": priority_class in self.values,
            "NotIn": priority_class not in self.values,
            "Exists": priority_class != "",
            "DoesNotExist": priority_class == "",
        }.get(self.operator)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.operator, ", ".join(self.values))))


@dataclasses.dataclass(frozen=True)
class Quota:
    """A ResourceQuota.

    counted: {resource: (used, hard)} as Kubernetes writes the quantities. scopes: what a pod must
    meet, all of it, to be counted.
    """

    name: str
    counted: Mapping[str, tuple[str, str]]
    scopes: tuple[Scope, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Quota":
        """Returns the quota that the API server describes with `document`."""
        spec, status = document.get("spec", {}), document.get("status", {})
        used = status.get("used", {})
        rules = spec.get("scopeSelector", {}).get("matchExpressions", [])
        return cls(
            document["metadata"]["name"],
            {name: (used.get(name, "0"), hard) for name, hard in status.get("hard", {}).items()},
            (
                *map(Scope, spec.get("scopes", [])),
                *(
                    Scope(rule["scopeName"], rule["operator"], tuple(rule.get("values", [])))
                    for rule in rules
                ),
            ),
        )

    def counts(self, priority_class: str | None) -> bool | None:
        """Returns whether it counts the pods of a job; None if that is not known.

        priority_class: as for `Scope.holds`.
        """
        answers = [scope.holds(priority_class) for scope in self.scopes]
        return False if False in answers else None if None in answers else True

    def room(self, resource: str) -> float:
        """Returns how much of a resource is left."""
        used, hard = self.counted[resource]
        return quantity(hard) - quantity(used)
