"""Raw files to a dataset."""
