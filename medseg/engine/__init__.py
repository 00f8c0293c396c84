"""Batch prediction: cases through a bundle in overlapped stages, with receipts and claims."""
