"""Comparisons under matched budgets, and sweeps."""
