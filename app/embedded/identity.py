"""Which system user the embedded servers run as, and the command prefix that ties their life to ours.

PostgreSQL refuses to run as root. Started by root, the servers run as the system user `plackett`, which is made when it
is missing. Started by anybody else they run as that person. All of it is done by `setpriv` (util-linux, present on
every Debian): it changes the user, and asks the kernel to signal the server when our process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.errors import SetupError

SERVER_USER = "plackett"

# Folders above the data or the programs may be closed to the server's user, as /root is. Rather than open them, the
# server gets the one capability to pass through them. The first is the smaller right; containers often know only the
# second. `no_setuid_fixup` makes access(2), with which PostgreSQL looks for its own programs, honour it.
_PASSING_CAPABILITIES = ("dac_read_search", "dac_override")


def server_user() -> pwd.struct_passwd | None:
    """Return the user the servers run as; None means "as we do", which is right for anybody but root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SERVER_USER)
    except KeyError:
        pass
    with _alone():
        return _make_server_user()


@contextmanager
def _alone() -> Iterator[None]:
    """Hold a lock that all processes share: of two useradd at once, one may undo the other."""
    folder = os.open("/etc", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _make_server_user() -> pwd.struct_passwd:
    """Make the user unless somebody has by now."""
    with suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)
    if useradd := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER]
        subprocess.run(command, check=False, capture_output=True)
    try:
        return pwd.getpwnam(SERVER_USER)
    except KeyError:
        raise SetupError(
            f"PostgreSQL does not run as root, and the system user {SERVER_USER!r} could not be made: "
            f"create it (useradd --system {SERVER_USER}), or start Plackett as another user."
        ) from None


def launch_prefix(user: pwd.struct_passwd | None, death_signal: str) -> list[str]:
    """Return what to put before a command so that it runs as `user` and gets `death_signal` when we die.

    `death_signal` is a name without SIG, such as "INT". The kernel watches the *thread* that starts the process,
    so start servers from a thread that lives as long as they should.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if user is not None:
            raise SetupError("Starting servers as root needs `setpriv`: install the package util-linux.")
        return []
    prefix = [setpriv, "--pdeathsig", death_signal]
    if user is not None:
        prefix += ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    return prefix


def reaching_prefix(user: pwd.struct_passwd | None, death_signal: str, paths: list[Path]) -> list[str]:
    """Return `launch_prefix`, with a capability added where `user` could not reach one of `paths` without it.

    Each path must be a folder to pass through or a program to run. Raises SetupError if no capability is to be had.
    """
    plain = launch_prefix(user, death_signal)
    if user is None:
        return plain
    candidates = [plain] + [
        [
            *plain,
            "--securebits=+no_setuid_fixup",
            f"--inh-caps=-all,+{capability}",
            f"--ambient-caps=-all,+{capability}",
            f"--bounding-set=-all,+{capability}",
            "--nnp",
        ]
        for capability in _PASSING_CAPABILITIES
    ]
    for prefix in candidates:
        blocked = _first_unreachable(prefix, paths)
        if blocked is None:
            return prefix
    raise SetupError(
        f"Started by root, the servers run as the user {user.pw_name!r}, who cannot reach {blocked}: "
        "set PLACKETT_VAR to a folder that this user can reach, keep the virtual environment in such a folder too, "
        "or start Plackett as another user."
    )


def _first_unreachable(prefix: list[str], paths: list[Path]) -> Path | None:
    for path in paths:
        probe = subprocess.run([*prefix, "test", "-x", str(path)], cwd="/", check=False, capture_output=True)
        if probe.returncode != 0:
            return path
    return None


def give_to(user: pwd.struct_passwd | None, path: Path) -> None:
    """Make `path` the server user's own; without one it is ours already."""
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
