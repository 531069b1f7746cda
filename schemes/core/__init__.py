"""The basis of all else: nodes, states, schemes and their tableaus, counts."""
