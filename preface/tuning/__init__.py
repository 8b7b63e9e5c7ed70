"""Training prompts."""
