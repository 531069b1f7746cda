"""The right-hand sides f of flows."""
