"""The networks a recipe can name: of each its settings, its sizes, and how it is built."""
