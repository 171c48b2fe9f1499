"""Data sets as the world publishes them, and who reads which samples when: NumPy only, no tensors."""
