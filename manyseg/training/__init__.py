"""The one training loop: schedule, optimizer, checkpoints, the log of metrics."""
