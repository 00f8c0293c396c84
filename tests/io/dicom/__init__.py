"""What scanners and archives send: DICOM series to refuse, and series to read right.

Every series is made here of a patient given by a formula, so that neither our reader nor a peer
decides what is right. `python -m tests.io.dicom.catalogue` prints the table "input, expected, got".
"""
