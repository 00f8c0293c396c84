"""Bundles made of models that were trained elsewhere, and of several bundles."""
