"""A frozen backbone, with a prompt or without, as a model of lm-evaluation-harness."""
