"""How Kubernetes writes names, labels and sizes, as patterns and numbers."""

import math
import re
from collections.abc import Iterable

from trainer import shown
from trainer.exit_codes import UsageError

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
CPUS = re.compile(r"[1-9]\d*m|(?=.*[1-9])\d+(\.\d{1,3})?")
BYTES = re.compile(r"[1-9]\d*(\.\d+)?(Ki|Mi|Gi|Ti|k|M|G|T)?")
LABEL_KEY = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?"
LABEL_VALUE = r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?"
KEY = re.compile(LABEL_KEY)
LABEL = re.compile(rf"(?P<key>{LABEL_KEY})=(?P<value>{LABEL_VALUE})")
# The value of an annotation is any text.
ANNOTATION = re.compile(rf"(?P<key>{LABEL_KEY})=(?P<value>.*)", re.DOTALL)
TOLERATION = re.compile(
    rf"(?P<key>{LABEL_KEY})(=(?P<value>{LABEL_VALUE}))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"

_SUFFIXES = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
    "Ei": 2.0**60,
}


def quantity(text: str) -> float:
    """Returns the number in a quantity of Kubernetes, such as 3, 1500m, 2k or 1Gi.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    number = text.rstrip("".join(_SUFFIXES))
    return float(number) * _SUFFIXES[text.removeprefix(number)]


def total(sizes: Iterable[str]) -> str:
    """Returns the sum of some sizes: a single one as it is, several rounded up to whole Mi."""
    sizes = list(sizes)
    if len(sizes) == 1:
        return sizes[0]
    return f"{math.ceil(sum(map(quantity, sizes)) / 2**20)}Mi"


def least(*quantities: str) -> str:
    """Returns the smallest of some quantities, as it is written."""
    return min(quantities, key=quantity)


def require(holds, name: str, value, rule: str) -> None:
    """Raises UsageError with the value of a flag and its rule, unless `holds`."""
    if not holds:
        raise UsageError(f"--{name}={shown.bare(str(value))}: {rule}.")


def check_cpus(name: str, value: str) -> None:
    """Raises UsageError unless --`name`=`value` is a number of CPUs."""
    require(CPUS.fullmatch(value), name, value, "must be a number of CPUs, for example 4 or 500m")


def check_size(name: str, value: str) -> None:
    """Raises UsageError unless --`name`=`value` is a number of bytes."""
    require(BYTES.fullmatch(value), name, value, "must be a size, for example 512Mi or 4Gi")
