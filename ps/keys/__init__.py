"""The command `ps-keys`: an authority, certificates and tokens for a small cluster."""
