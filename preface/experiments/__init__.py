"""Experiments: what is trained and evaluated, and the report of what came out."""
