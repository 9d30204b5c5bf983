"""Runs: recipes, their stages, and the folder that a run leaves."""
