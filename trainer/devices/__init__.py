"""What a run computes on: threads, devices, replicas and workers, and what workers exchange."""
