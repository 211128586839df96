"""Statistics of rankings as pure functions of arrays: agreement, reliability of labelers, biases. No database here.

Nothing imports this package but what computes a quality report; so the web process never loads numpy for it.
"""
