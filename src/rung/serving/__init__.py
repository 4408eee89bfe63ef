"""Answering: versions loaded and swapped, requests batched, deadlines kept. Knows no wire format."""
