"""A frozen model that reads and answers."""
