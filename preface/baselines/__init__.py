"""What a user would pick instead of a soft prompt. A baseline is one file here: a column of an experiment."""
