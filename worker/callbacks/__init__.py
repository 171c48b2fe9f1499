"""Callbacks for frameworks that own the training loop: thin front ends of `session.wrap`."""
