"""Tasks, leases and the answers to them."""
