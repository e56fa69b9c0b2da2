"""From raw files to the batch of a step: sources -> text -> store on disk -> order -> pipeline."""
