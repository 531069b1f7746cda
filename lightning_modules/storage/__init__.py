"""Files that are written whole, and those of a run folder."""
