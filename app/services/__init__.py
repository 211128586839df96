"""Business rules: modules of functions that take a session."""
