"""Where bodies lie: aligned, recycled."""
