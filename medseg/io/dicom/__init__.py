"""DICOM series, read so that no slice is lost, doubled or put elsewhere without a word."""
