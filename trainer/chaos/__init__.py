"""`trainer chaos`: kills a run at random moments and proves that its result does not change."""
