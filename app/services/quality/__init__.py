"""How far the answers can be trusted, and what is done about those that cannot."""
