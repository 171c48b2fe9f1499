"""The program `ps-worker`: a task, its data, and the loop that trains it."""
