"""Readers of other servers' folders and files, one per peer: each says what is there and what cannot come along."""
