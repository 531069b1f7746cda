"""What networks are trained for: one Lightning module for each task. The data decides which."""
