"""Sharing of weights between the nodes of a flow."""
