"""Training of one run, from config to result, and loading of trained runs."""
