"""Prompts of other programs: written for them, and read. A file here is a format."""
