"""The files of a run, and which process may write them."""
