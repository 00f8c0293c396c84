"""Data sets: cards, cases, splits, the cache of prepared cases, and batches for training."""
