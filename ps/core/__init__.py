"""Every decision of the server: who may read, what is applied when, who is dead, what is a duplicate.

One deterministic, synchronous state machine, `machine.Machine`: `step(event, now) -> effects`. It knows names and
numbers, never tensors, sockets, clocks, threads or logs. Read in this order: `events`, `effects`, `machine`,
`groups`, `policies`, then the nouns they use: `membership`, `clocks`, `rounds`, `deduplication`, `barriers`.
"""
