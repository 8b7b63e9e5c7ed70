"""What a person sees while work goes on, and how it is stopped."""
