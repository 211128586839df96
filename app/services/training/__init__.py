"""Snapshots, runs and the models that come out of them."""
