"""Alembic migrations, shipped inside the package so that `plackett migrate` works anywhere."""
