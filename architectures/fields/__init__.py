"""Fields: the right-hand sides f of flows."""
