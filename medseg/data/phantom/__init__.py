"""Synthetic data sets in the layout of a card, so that every recipe can be tried at once.

They show that a pipeline learns. They are no stand-in for patients.
"""
