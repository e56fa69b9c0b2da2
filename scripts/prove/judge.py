"""What logs, journals and profiles show: pure functions, without TensorFlow."""

import datetime
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Event = Mapping[str, Any]


def digest(output: str) -> str | None:
    """Returns the digest of the last `done` line of a run, None if there is none."""
    found = re.findall(r"^done step=\d+ state_digest=([0-9a-f]{64})$", output, re.MULTILINE)
    return found[-1] if found else None


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the largest relative difference of two equally long lists; infinity if one is off.

    Off: of another length, empty, or with a number that is not finite.
    """
    if len(ours) != len(theirs) or not ours:
        return float("inf")
    differences = [abs(a - b) / max(abs(b), 1e-30) for a, b in zip(ours, theirs)]
    return max((float("inf") if d != d else d for d in differences), default=float("inf"))


# --- Journals -------------------------------------------------------------------------------------


class Pace(NamedTuple):
    """How fast a run trained after its first line: compiling, evaluating and saving not counted."""

    steps: int
    seconds: float
    input_seconds: float

    @property
    def ms_per_step(self) -> float:
        return 1000 * self.seconds / self.steps

    @property
    def input_ms(self) -> float:
        """Milliseconds per step in which it waited for its batch."""
        return 1000 * self.input_seconds / self.steps


def pace(events: Iterable[Event]) -> Pace | None:
    """Returns the pace of a run; None if it was too short to tell."""
    loops = [event for event in events if event["event"] == "loop"][1:]
    steps = sum(event["steps"] for event in loops)
    if not steps:
        return None
    return Pace(
        steps,
        sum(event["seconds"] for event in loops),
        sum(event["input_seconds"] for event in loops),
    )


def compile_seconds(events: Iterable[Event]) -> dict[str, float]:
    """Returns {length or program: seconds of its compilation}."""
    return {
        str(event.get("length", event.get("program"))): event["seconds"]
        for event in events
        if event["event"] == "compile"
    }


def since_epoch(event: Event) -> float:
    """Returns the time of a journal line in seconds since the epoch."""
    return datetime.datetime.fromisoformat(event["time"]).timestamp()


def first_step(events: Iterable[Event], after: float, attempt_above: int = 0) -> float | None:
    """Returns the seconds from `after` to the first step of an attempt above `attempt_above`.

    None if there is none. after: seconds since the epoch.
    """
    moments = [
        since_epoch(event)
        for event in events
        if event["event"] == "loop" and event["attempt"] > attempt_above
    ]
    return min(moments) - after if moments else None


def training_window(events: Iterable[Event]) -> tuple[float, float] | None:
    """Returns when the steps after the first line began and ended, in seconds since the epoch."""
    loops = [since_epoch(event) for event in events if event["event"] == "loop"]
    return (loops[0], loops[-1]) if len(loops) > 1 else None


# --- Logs -----------------------------------------------------------------------------------------


class Placed(NamedTuple):
    """A node of a graph, its operation and the device that TensorFlow gave it, such as GPU:0."""

    node: str
    operation: str
    device: str


def placements(log: str) -> list[Placed]:
    """Returns the nodes in a log of `tf.debugging.set_log_device_placement(True)`."""
    lines = re.findall(r"(\S+): \((\w+)\): \S*/device:([A-Z]+:\d+)$", log, re.MULTILINE)
    return [Placed(*line) for line in lines]


def devices_of(placed: Iterable[Placed], operation: str) -> dict[str, int]:
    """Returns {device: nodes of `operation` on it}."""
    return dict(Counter(each.device for each in placed if each.operation == operation))


def sums_on_cpu(placed: Iterable[Placed]) -> list[str]:
    """Returns the nodes inside loops that add gradients of several devices up on a CPU."""
    return [
        each.node
        for each in placed
        if each.operation == "AddN" and each.device.startswith("CPU") and "while/" in each.node
    ]


def uses_nccl(log: str) -> bool:
    """Returns whether a log with NCCL_DEBUG=INFO shows that NCCL was set up."""
    return "NCCL INFO" in log


def out_of_memory(log: str) -> bool:
    """Returns whether a log speaks of a device without memory left."""
    return bool(re.search(r"RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY|out of memory", log))


def kills(output: str) -> int:
    """Returns the number of kills or faults that `trainer chaos` reports."""
    return len(re.findall(r"^(?:kill|fault) \d+ ", output, re.MULTILINE))


# --- Profiles -------------------------------------------------------------------------------------

# {plane: {"events": {name: count}, "operations": {name: count}, "busy": share of the time}}
Profile = Mapping[str, Mapping[str, Any]]


def on_gpus(profile: Profile, part: str) -> Counter:
    """Returns {name: count} of a part, "events" or "operations", over all GPUs."""
    total: Counter = Counter()
    for plane, parts in profile.items():
        if "GPU" in plane:
            total.update(parts[part])
    return total


def copies_to_host(profile: Profile) -> int:
    """Returns the copies from GPUs to host memory."""
    return sum(
        count
        for name, count in on_gpus(profile, "events").items()
        if re.search(r"Memcpy(D2H|DtoH)", name)
    )


def launches(profile: Profile) -> int:
    """Returns the kernels that ran on GPUs."""
    return sum(
        count
        for name, count in on_gpus(profile, "events").items()
        if not re.match(r"Mem(cpy|set)", name)
    )


def transfers(profile: Profile) -> dict[str, int]:
    """Returns {name: count} of the events on all planes that move data between host and device."""
    total: Counter = Counter()
    for parts in profile.values():
        total.update(
            {name: n for name, n in parts["events"].items() if re.search(r"Transfer|Memcpy", name)}
        )
    return dict(total.most_common(12))


# --- nvidia-smi -----------------------------------------------------------------------------------


def busy(samples: Sequence[tuple[float, str]], window: tuple[float, float]) -> float | None:
    """Returns the median of the GPU's busy per cent within the window; None without samples.

    samples: (seconds since the epoch, output of nvidia-smi, one number per GPU and line).
    """
    values = [
        statistics.mean(map(float, numbers))
        for moment, text in samples
        if window[0] <= moment <= window[1] and (numbers := re.findall(r"\d+(?:\.\d+)?", text))
    ]
    return statistics.median(values) if values else None


def gpus_listed(text: str) -> int:
    """Returns the number of GPUs that `nvidia-smi -L` lists."""
    return len(re.findall(r"^GPU \d+:", text, re.MULTILINE))


def visible_gpus(listed: int, cuda_visible_devices: str | None) -> int:
    """Returns how many of the listed GPUs a program may use."""
    if cuda_visible_devices is None:
        return listed
    names = [name for name in cuda_visible_devices.split(",") if name.strip()]
    # CUDA stops at the first name that it does not know, such as -1.
    return min(listed, next((i for i, n in enumerate(names) if n.strip() == "-1"), len(names)))
