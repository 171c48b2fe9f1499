"""What listeners ask for, and what clients show: secrets, tokens, certificates."""
