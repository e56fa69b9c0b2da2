"""rnn-trainer: a distributed batch training job for recurrent sequence models."""

__version__ = "0.1.0"
