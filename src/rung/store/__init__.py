"""Rows and bytes, on this machine or elsewhere."""
