"""A trained model on disk, and the runs that make one: where a recipe meets what it builds."""
