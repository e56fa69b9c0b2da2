"""What a run computes on: strategy, accelerators, threads, fused steps, what goes between workers."""
