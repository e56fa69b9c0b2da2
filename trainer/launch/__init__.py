"""Where a job runs and how it gets there; nothing here imports TensorFlow."""
