"""What comes to a hospital's door: NIfTI inputs to refuse, and NIfTI inputs to read right.

Every input is made here from an analytic phantom and a header of our own packing, so that neither
our reader nor a peer's writer decides what is right. `python -m tests.io.catalogue` prints the
table "input, expected, got".
"""
