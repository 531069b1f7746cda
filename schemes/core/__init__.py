"""Nodes, states, schemes and their tableaus, counts: what all else stands on."""
