"""Runs: from data and a training function to a registered version that anyone can reproduce."""
