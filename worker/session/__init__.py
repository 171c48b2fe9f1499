"""What a worker and a server say to each other, decided without I/O."""
