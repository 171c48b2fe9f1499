"""What both sides need to move and to hold bodies: a worker can listen with it, a server can be a client."""
