"""Jinja templates; one folder mirrors each module of `app/routes`, fragments start with an underscore."""
