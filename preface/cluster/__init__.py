"""Work that is spread over the machines of a Ray cluster. Nothing else in the package imports Ray."""
