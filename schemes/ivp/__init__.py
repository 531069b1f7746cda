"""Initial value problems: solve, its solutions, and calls like those of torchdiffeq."""
