"""What a user would pick instead of a soft prompt, measured on the same rows."""
