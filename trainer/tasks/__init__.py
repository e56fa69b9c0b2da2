"""What a run learns, and what its outputs are worth."""
