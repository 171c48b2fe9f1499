"""The wire of Leeway: what both sides say to each other, and how it lies in bytes.

Pure: no I/O, no clock, no randomness; the standard library, numpy and msgpack only.
"""
