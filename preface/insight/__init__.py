"""A look inside prompts."""
