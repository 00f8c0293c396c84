"""Ways to make a writer fail: at the N-th call of Python's, of the system's, by a kill."""
