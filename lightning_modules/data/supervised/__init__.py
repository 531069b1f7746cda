"""Data with labels or target values."""
