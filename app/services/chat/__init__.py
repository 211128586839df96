"""Live conversations with models, and the endpoints that serve those."""
