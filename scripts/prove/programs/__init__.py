"""Programs that look inside TensorFlow; each runs in a process of its own, `python -m`."""
