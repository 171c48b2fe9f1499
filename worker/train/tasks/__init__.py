"""What is trained: one file a task, behind the protocol of `task`."""
