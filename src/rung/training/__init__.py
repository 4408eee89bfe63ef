"""Runs: from data and a training function to a registered version that anyone can reproduce.

What a project's own functions import is `Trained` of `rung.training.trained`, and `Context` of `rung.training.context`
where they name the type of their argument.
"""
