"""Measurements, each beside a baseline in the same run. `python -m bench` runs all, `python -m bench handout` one."""
