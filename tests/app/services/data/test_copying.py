"""Reading a `COPY` in bulk: the same bytes as psycopg's own way, and a connection that is of use afterwards."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import Select, Text, cast, column, func, literal_column, select, text
from sqlalchemy.orm import Session

from app.services.data.copying import copied


def series(count: int, value: str = "repeat('x', n % 300)") -> Select[Any]:
    numbers = func.generate_series(1, count).table_valued(column("n"), name="n").render_derived()
    return select(cast(numbers.c.n, Text), literal_column(value)).select_from(numbers).order_by(numbers.c.n)


def by_psycopg(session: Session, count: int) -> bytes:
    driver = session.connection().connection.driver_connection
    assert driver is not None
    with (
        driver.cursor() as cursor,
        cursor.copy(
            "COPY (SELECT n, repeat('x', n %% 300) FROM generate_series(1, %s) n) TO STDOUT (FORMAT csv, "
            "DELIMITER E'\\x01', QUOTE E'\\x02')",
            [count],
        ) as copy,
    ):
        return b"".join(bytes(block) for block in copy)


@pytest.mark.parametrize("count", [0, 1, 20_000])
def test_the_bytes_are_those_of_a_copy_in_chunks_of_whole_lines(session: Session, count: int) -> None:
    chunks = list(copied(session, series(count), size=10_000))
    assert b"".join(chunks) == by_psycopg(session, count)
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    assert all(10_000 <= len(chunk) < 11_000 for chunk in chunks[:-1])


def test_what_is_not_read_to_its_end_is_cancelled_and_the_connection_goes_on(session: Session) -> None:
    server = session.scalar(select(func.pg_backend_pid()))
    savepoint = session.begin_nested()
    stream = copied(session, series(300_000))
    assert next(stream).startswith(b"1\x01x\n2\x01xx\n")
    stream.close()
    savepoint.rollback()
    assert session.scalar(select(func.pg_backend_pid())) == server
    assert b"".join(copied(session, series(3))) == by_psycopg(session, 3)


@pytest.mark.parametrize("at", [1, 30_000])
def test_an_error_of_the_server_is_raised_at_once_or_in_the_middle(session: Session, at: int) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), session.begin_nested():
        list(copied(session, series(40_000, f"repeat('x', 10 / ({at} - n))")))
    assert b"".join(copied(session, series(3))) == by_psycopg(session, 3)


def test_a_statement_that_is_none_is_an_error_and_the_connection_goes_on(session: Session) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn), session.begin_nested():
        list(copied(session, series(1, "no_such_column")))
    assert session.scalar(text("SELECT 1")) == 1


def test_parameters_of_many_kilobytes_arrive(session: Session) -> None:
    long = "“\\" * 300_000
    assert b"".join(copied(session, select(cast(long, Text)))).decode() == long + "\n"
