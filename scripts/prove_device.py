#!/usr/bin/env python3
"""Proves on one machine that the trainer computes right, repeats and is fast on its device.

Runs the checks below, writes proof.json and proof.md, and exits with 1 if one of them failed. The
data is made here; nothing is downloaded.

  a  versions, libraries, compute capability     e  speed beside Keras fit, first step
  b  placement, copies to the host, input ahead  f  several devices, a killed worker
  c  equal bits: repeats, kills, cells           g  sums over two workers, SIGTERM
  d  truth: losses, Keras layers, export         h  what only a TPU shows
  i  language model, translation

A check that needs more devices than there are is skipped, with the reason. On a CPU the proof
shows only that the checks themselves work. --only=a,c or --only=repeats,losses runs some of them.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scripts.prove import command  # noqa: E402

if __name__ == "__main__":
    sys.exit(command.main(sys.argv[1:], __doc__))
