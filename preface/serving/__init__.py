"""One frozen model, thousands of prompts: what answers requests as they come."""
