"""Predictions against the truth: overlap, surfaces and volumes, and the report of them."""
