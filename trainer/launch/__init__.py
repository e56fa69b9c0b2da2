"""`trainer submit`: a job becomes text for a place, and the programs of that place run it."""
