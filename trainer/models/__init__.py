"""Networks built from a configuration, and the recurrences they run on."""
