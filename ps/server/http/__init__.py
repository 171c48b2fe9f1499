"""The server's HTTP: its routes, the live page, the stream of events."""
