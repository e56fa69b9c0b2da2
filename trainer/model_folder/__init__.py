"""What a run keeps on disk and who may write there."""
