"""Configs: composed, checked against the registries, and listed."""
