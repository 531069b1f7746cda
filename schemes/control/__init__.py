"""Control problems: the weights of a flow as a control, and methods that find the best one."""
