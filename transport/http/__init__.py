"""HTTP as a transport: `exchange` asks, the rest listens and answers."""
