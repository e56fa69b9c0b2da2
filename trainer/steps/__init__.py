"""Train and evaluation steps, compiled, and the state that they change."""
