"""The checks by letter, as in the plan of the proof: a table, and one module per letter.

A check is a function of (Machine, Found): it runs programs, notes figures, and calls `expect` for
everything that must hold. It raises Skipped if this machine cannot show it. Any other exception is
a failure.
"""

from collections.abc import Callable
from typing import NamedTuple

from scripts.prove.checks import bits, gang, placement, replicas, speed, tasks, tpu, truth, versions
from scripts.prove.machine import Machine
from scripts.prove.report import Found


class Check(NamedTuple):
    """A check: its letter, title and function, and the seconds after which it is ended."""

    letter: str
    title: str
    run: Callable[[Machine, Found], None]
    seconds: float


CHECKS = {
    "versions": Check("a", "versions and libraries", versions.check, 300),
    "placement": Check("b", "placement, copies, input ahead", placement.check, 300),
    "repeats": Check("c", "equal runs end with equal bits", bits.repeats, 600),
    "kills": Check("c", "a killed run ends with the same bits", bits.kills, 900),
    "cells": Check("c", "every cell in every precision repeats", bits.cells, 1200),
    "losses": Check("d", "losses and export against the CPU", truth.losses, 600),
    "recurrences": Check("d", "Keras layers against our recurrences", truth.recurrences, 300),
    "speed": Check("e", "speed beside Keras fit", speed.speed, 1200),
    "first_step": Check("e", "seconds to the first step", speed.first_step, 900),
    "replicas": Check("f", "several devices in one process", replicas.check, 900),
    "recovery": Check("f", "a killed worker of two", gang.recovery, 600),
    "exchange": Check("g", "sums over two workers", gang.exchange, 300),
    "stop": Check("g", "SIGTERM within the grace period", gang.stop, 300),
    "tasks": Check("i", "language model and translation", tasks.check, 900),
    "tpu_cells": Check("h", "TPU: a step of each cell", tpu.cells, 900),
    "tpu_lengths": Check("h", "TPU: time by length, bytes per call", tpu.lengths, 900),
    "tpu_precision": Check("h", "TPU: default against highest precision", tpu.precision, 600),
}
