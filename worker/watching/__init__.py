"""What `ps-worker` shows of itself: metrics and log."""
