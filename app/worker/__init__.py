"""Celery task bodies and the supervisor of training processes."""
