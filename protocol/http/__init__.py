"""Where each message is in HTTP: one mapping for both sides, pure. A driver moves what stands in its terms.

`requests` and `replies` hold the mapping, each way in one file; `terms` says what a driver moves, `headers` reads the
headers that say something of a message.
"""
