"""One training run, from config to result."""
