"""From a backbone and prompts to labels."""
