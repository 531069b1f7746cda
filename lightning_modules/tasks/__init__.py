"""Lightning modules, one for each task."""
