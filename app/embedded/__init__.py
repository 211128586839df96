"""The embedded stack: PostgreSQL, Redis and our own processes on one machine, without Docker."""
