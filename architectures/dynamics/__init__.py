"""Neural ODEs of trajectories, and a recurrent rival."""
