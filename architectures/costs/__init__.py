"""Costs of a network, and matching of budgets."""
