"""What a run shows: progress, TensorBoard, goodput."""
