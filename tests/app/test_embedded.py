"""The embedded servers: they keep their data, refuse what is not theirs, and end with us."""

from __future__ import annotations

import redis
from sqlalchemy import text


def test_the_session_fixture_talks_to_a_migrated_postgres_18(session):
    assert session.scalar(text("SHOW server_version")).startswith("18")
    assert session.scalar(text("SHOW data_checksums")) == "on"
    assert session.scalar(text("SELECT count(*) FROM alembic_version")) == 1


def test_the_application_role_is_no_superuser(session):
    assert session.scalar(text("SHOW is_superuser")) == "off"


def test_redis_answers(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
