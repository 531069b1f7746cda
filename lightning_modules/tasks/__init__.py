"""Lightning modules: what is minimised and measured, one module for each task."""
