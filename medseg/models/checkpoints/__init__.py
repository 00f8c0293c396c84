"""Weights of others: their names translated to ours, all of them or none."""
