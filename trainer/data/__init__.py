"""From a prepared dataset to the batch of a step: store -> order -> plans -> pipeline."""
