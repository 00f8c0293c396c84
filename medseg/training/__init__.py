"""Training: the step, the schedule, the checkpoints, and a resume that continues."""
