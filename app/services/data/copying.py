"""Reading what PostgreSQL's `COPY … TO STDOUT` sends, many rows at a time: bytes in, bytes out, constant memory.

psycopg's own `Copy` does a dozen steps in Python for each row; here a row costs one call of libpq, which is what makes
an export or a snapshot of a million rows wait for PostgreSQL and not for us.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.waiting import Ready, Wait
from sqlalchemy import Select, text
from sqlalchemy.orm import Session

CHUNK_BYTES = 1 << 16
DELIMITER = b"\x01"
"""What stands between two columns of `copied`, which no JSON holds."""


def copied(session: Session, statement: Select[Any], size: int | None = None) -> Generator[bytes, None, None]:
    """Yield what the statement's columns of JSON and plain words hold, a line for each row, in chunks of whole lines.

    `COPY` as text would double each backslash. As CSV it quotes only what holds the delimiter, the quote or a line end,
    and JSON holds no control character: so with these two the bytes are the JSON, and a line end after each. A chunk
    has at least `size` bytes (`CHUNK_BYTES`), but for the last. What is not read to its end is cancelled in the server.
    """
    connection = session.connection()
    # In the order of the index, so that the first line comes at once and nothing is sorted on disk.
    session.execute(text("SET LOCAL enable_sort = off"))
    compiled = statement.compile(dialect=connection.dialect)
    sql = f"COPY ({compiled}) TO STDOUT (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')"
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101  (it is checked out)
    yield from _chunks(driver, psycopg.ClientCursor(driver).mogrify(sql, compiled.params), size or CHUNK_BYTES)


def _chunks(driver: psycopg.Connection[Any], sql: str, size: int) -> Generator[bytes, None, None]:
    server = driver.pgconn
    server.send_query(sql.encode())
    driver.wait(_sent(driver))
    is_flowing = False
    rows: list[memoryview] = []
    filled = 0
    try:
        _expect(driver, ExecStatus.COPY_OUT)
        is_flowing = True
        while True:
            length, row = server.get_copy_data(1)
            if length > 0:
                rows.append(row)
                filled += length
                if filled >= size:
                    yield b"".join(rows)
                    rows, filled = [], 0
            elif length == 0:
                driver.wait(_more(driver))
            else:
                break
        is_flowing = False
        _expect(driver, ExecStatus.COMMAND_OK)
    finally:
        if is_flowing:
            _break_off(driver)
        _settle(driver)
    if rows:
        yield b"".join(rows)


def _sent(driver: psycopg.Connection[Any]) -> PQGen[None]:
    """Send the whole command; what the server says meanwhile is taken in, or both could wait for one another."""
    while driver.pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            driver.pgconn.consume_input()


def _more(driver: psycopg.Connection[Any]) -> PQGen[None]:
    """Wait until more has come, and take it in; an interrupt of the program is heard meanwhile."""
    while not (yield Wait.R):
        pass
    driver.pgconn.consume_input()


def _expect(driver: psycopg.Connection[Any], status: ExecStatus) -> None:
    """Take the server's answer; raise its error when it is another than `status`."""
    while driver.pgconn.is_busy():
        driver.wait(_more(driver))
    result = driver.pgconn.get_result()
    if result is None or result.status != status:
        raise (
            psycopg.OperationalError("the server ended a COPY early")
            if result is None
            else (psycopg.errors.error_from_result(result, encoding=driver.info.encoding))
        )


def _break_off(driver: psycopg.Connection[Any]) -> None:
    """Cancel what is not read to its end and pass over what has been sent: the connection is of use again."""
    if driver.pgconn.status != ConnStatus.OK:
        return
    with contextlib.suppress(psycopg.Error):
        driver.cancel_safe()
        while True:
            length, _ = driver.pgconn.get_copy_data(1)
            if length < 0:
                return
            if length == 0:
                driver.wait(_more(driver))


def _settle(driver: psycopg.Connection[Any]) -> None:
    """Take what answers are left, such as that of a cancelled command."""
    with contextlib.suppress(psycopg.Error):
        while driver.pgconn.status == ConnStatus.OK and driver.pgconn.get_result() is not None:
            pass
