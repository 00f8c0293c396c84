"""From a source volume to the grid of the network and back: one record, replayed both ways."""
