"""The networks: one file an architecture; `catalog.py` lists them. Light until one is built."""
