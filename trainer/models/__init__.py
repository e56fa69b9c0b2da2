"""Networks built from a configuration, and the recurrences that they run on."""
