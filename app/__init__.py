"""Plackett's web application, workers and command line."""
