"""Evaluation: one slot of one group, from samples to commit, and what a rule carries from slot to slot."""
