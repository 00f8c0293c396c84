"""From a volume to its labels: the walk of windows, and the way back to the source grid."""
