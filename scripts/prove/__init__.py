"""The device proof: what `scripts/prove_device.sh` runs and writes.

command     the flags, the order of the checks, proof.json and proof.md
checks/     one module per letter; a check is a function of (Machine, Found)
machine     runs the trainer as a user does, in processes of its own
programs/   programs that look inside TensorFlow, each in a process of its own
judge       pure functions: what a log, a journal or a profile shows
report      the outcome of checks as JSON and as a page
"""
