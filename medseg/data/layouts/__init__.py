"""How data sets lay out their files: by patterns, as the Decathlon does, as nnU-Net does."""
