"""Modes that evaluate f again in backward: what they keep, and how they repeat the forward pass."""
