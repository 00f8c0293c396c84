"""A bundle's network in the formats of others, each read back and compared before it is kept."""
