"""The command line: `plackett COMMAND`. Each command calls one function of the code below it.

Imports stand inside the commands, against our habit, so that `plackett --help` answers at once: SQLAlchemy, Celery and
FastAPI together take most of a second to load. They point downwards all the same, which import-linter checks. The
settings are read before them, so that a setting that cannot be used is answered in a sentence.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from app import commands
from app.errors import InvalidInputError, PlackettError
from app.settings import Settings, get_settings

if TYPE_CHECKING:
    from app.embedded.stack import Stack

app = typer.Typer(
    help="Human preferences in, aligned models out, every week.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they may hold a password
)
console = Console(highlight=False)
app.add_typer(commands.snapshot, name="snapshot")
app.add_typer(commands.runs, name="runs")
app.add_typer(commands.models, name="models")
app.add_typer(commands.token, name="token")

HostOption = Annotated[str | None, typer.Option(help="Address to listen on; default PLACKETT_HOST, else 127.0.0.1.")]
PortOption = Annotated[int | None, typer.Option(help="Port to listen on; default PLACKETT_PORT, else 8000; 0: any.")]
WorkersOption = Annotated[int, typer.Option("--web-workers", min=1, help="Number of web processes.")]
VarOption = Annotated[Path | None, typer.Option("--var", help="Data folder; default PLACKETT_VAR, else ./var.")]


class Judge(StrEnum):
    """What judged in an imported file."""

    HUMAN = "human"
    AI = "ai"


class Queue(StrEnum):
    """The two queues a worker can serve."""

    DEFAULT = "default"
    GPU = "gpu"


@app.command()
def up(host: HostOption = None, port: PortOption = None, web_workers: WorkersOption = 1, var: VarOption = None) -> None:
    """Start everything on this machine: databases, web pages, workers, schedule. Ctrl-C stops it."""
    settings = _settings(host=host, port=port, var=var)
    from app.embedded.interrupt import StopOnce
    from app.embedded.stack import Stack

    StopOnce()
    stack = Stack(settings, web_workers=web_workers, report=lambda sentence: console.print(sentence, style="dim"))
    starting = console.status("Starting; the first time takes a few seconds longer.")
    try:
        with starting, stack:
            starting.stop()
            console.print(f"\n[bold]{stack.url}[/bold]  Plackett is running. Ctrl-C stops it.")
            console.print(f"Data is in {settings.var}, logs are in {settings.var / 'log'}.")
            console.print("`plackett create-admin` makes the first account.\n", style="dim")
            _wait(stack)
    except KeyboardInterrupt:
        pass  # somebody asked for the end, and all has been stopped
    console.print("Stopped.")


def _wait(stack: Stack) -> None:
    """Return never: somebody asks for the end (KeyboardInterrupt), or a process gives up (PlackettError)."""
    try:
        stack.wait()
    except KeyboardInterrupt:
        console.print("Stopping. A run in progress saves a checkpoint first.", style="dim")
        raise
    raise PlackettError(stack.failure or "The stack has stopped.")


@app.command()
def demo(
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Seed of everything random; the same seed gives the same table.")
    ] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier demo in the same folder first.")] = False,
    rounds: Annotated[
        int, typer.Option(min=0, max=20, help="Instead, look on while a schedule runs so many weekly rounds.")
    ] = 0,
    prompts: Annotated[
        int, typer.Option(min=8, max=72, help="Weekly rounds only: how many of the demo's prompts; fewer are quicker.")
    ] = 72,
    host: HostOption = None,
    port: PortOption = None,
    var: VarOption = None,
) -> None:
    """Run the whole loop once on a real model with simulated labelers; on a terminal the server then stays up."""
    settings = _settings(host=host, port=port, var=var)
    from app.demo import run
    from app.embedded.interrupt import StopOnce

    StopOnce()
    finished = False

    def stay(stack: Stack) -> None:
        nonlocal finished
        finished = True
        if sys.stdin.isatty() and sys.stdout.isatty():
            console.print("\nThe server keeps running. Ctrl-C stops it.")
            _wait(stack)

    try:
        if rounds:
            run.demo_weekly(settings, console, rounds=rounds, prompts=prompts, seed=seed, fresh=fresh, stay=stay)
        else:
            run.demo(settings, console, seed=seed, fresh=fresh, stay=stay)
    except KeyboardInterrupt:
        console.print("Stopped.")
        if not finished:
            raise typer.Exit(130) from None


@app.command()
def serve(
    host: HostOption = None,
    port: PortOption = None,
    web_workers: WorkersOption = 1,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A socket that is bound already.")] = None,
) -> None:
    """Start the web server alone; DATABASE_URL and REDIS_URL name the servers it uses."""
    settings = _settings(host=host, port=port)
    from app.embedded import access, web

    access.require_services(settings)
    bound = web.bind(settings.host, settings.port) if fd is None else socket.socket(fileno=fd)
    if not web.serve(bound, web_workers):
        raise typer.Exit(1)


@app.command()
def worker(queue: Annotated[Queue, typer.Option(help="Which queue to serve.")] = Queue.DEFAULT) -> None:
    """Start a worker. The GPU queue trains, evaluates and samples, one run at a time."""
    settings = _settings()
    from app.embedded import access
    from app.queue import worker_command

    access.require_services(settings)
    _become(worker_command(queue))


@app.command()
def publish(folder: Annotated[Path, typer.Argument(help="A model's folder on this machine.")]) -> None:
    """Send a model's folder to the artifact store and print the address to register it by."""
    _settings()
    from app.services.training import artifacts, registry

    registry.check_folder(folder)
    console.print(artifacts.publish_folder(folder), soft_wrap=True)


@app.command()
def beat() -> None:
    """Start the clock that asks, again and again, what is due. Two of them do no harm."""
    settings = _settings()
    from app.embedded import access
    from app.embedded.folder import make_var
    from app.queue import beat_command

    access.require_services(settings)
    _become(beat_command(make_var(settings.var) / "run" / "beat"))


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    settings = _settings()
    from app.embedded import access

    with access.database_for_command(settings):
        console.print("The database has the newest schema.")


@app.command("create-admin")
def create_admin(
    email: Annotated[str, typer.Option(prompt="E-mail", help="The address to sign in with.")],
    name: Annotated[str, typer.Option(prompt="Name", help="The name others see.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking.")
    ] = False,
) -> None:
    """Make an account with all rights. There is none until you do: no account comes with Plackett."""
    settings = _settings()
    from app import db
    from app.embedded import access
    from app.services.accounts import accounts

    password = (
        sys.stdin.readline().rstrip("\r\n")
        if password_stdin
        else typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    )
    with access.database_for_command(settings), db.transaction() as session:
        accounts.create_admin(session, email, name, password)
    console.print(f"{email} can sign in now, as an admin.")


@app.command("export")
def export_rankings(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="The file to write.")],
    project: Annotated[str, typer.Option(help="Name or id of the project.")],
    token: Annotated[str, typer.Option(envvar="PLACKETT_TOKEN", prompt=True, hide_input=True, help="An API token.")],
    url: Annotated[str, typer.Option(envvar="PLACKETT_URL", help="The server.")] = "http://127.0.0.1:8000",
    format_name: Annotated[str, typer.Option("--format", help="Its format; docs/exports.md lists them.")] = "plackett",
    ties: Annotated[str, typer.Option(help="In formats of pairs: drop, both or margin0.")] = "drop",
    snapshot: Annotated[str, typer.Option(help="Id of a snapshot: what it froze instead of what there is now.")] = "",
    parquet: Annotated[bool, typer.Option("--parquet", help="A Parquet file instead of lines.")] = False,
) -> None:
    """Write a project's rankings to a file in any format, over the REST API, and say what the format lost."""
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    from app.client import Client, reaching

    wanted = {"ties": ties, "file": "parquet" if parquet else "lines", **({"snapshot": snapshot} if snapshot else {})}
    with reaching(url), Client(url, token) as client:
        found = next((item for item in client.projects() if project in (item["name"], item["id"])), None)
        if found is None:
            raise PlackettError(f"The token sees no project named “{project}”.")
        columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("Exporting", total=None)
            size = client.save(
                file,
                found["id"],
                format_name,
                **wanted,
                told=lambda size: progress.update(task, completed=size),
            )
        manifest = client.manifest(found["id"], format_name, **wanted)
    console.print(f"{manifest['rows']:,} rows of {manifest['records']:,} {manifest['of']}, {size:,} bytes.")
    for sentence in manifest["loss"]["sentences"]:
        console.print(f"  {sentence}", style="dim")


@app.command("import")
def import_file(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="The file, as it is or gzip; or hub:owner/name[:part], a data set of Hugging Face."
        ),
    ],
    project: Annotated[str, typer.Option(help="Name of the project that gets it.")],
    by: Annotated[str, typer.Option(help="E-mail of the admin who does it; the audit log names them.")],
    format_name: Annotated[
        str, typer.Option("--format", help="Its format; docs/imports.md lists them. Default: its first line tells.")
    ] = "detect",
    dataset: Annotated[str, typer.Option(help="Where it comes from; default: the file's name.")] = "",
    judge: Annotated[Judge | None, typer.Option(help="What judged or wrote; default: what is usual.")] = None,
) -> None:
    """Import rankings, demonstrations or prompts from elsewhere, all or nothing. A file a second time adds nothing."""
    settings = _settings()
    from app import db, downloads
    from app.embedded import access
    from app.services.accounts import accounts
    from app.services.data import intake
    from app.services.projects import projects

    with (
        downloads.local(source, console) as found,
        access.database_for_command(settings),
        commands.progress("Importing") as told,
        db.transaction() as session,
    ):
        reports = []
        for file in found.files:
            with file.open("rb") as opened:
                reports.append(
                    intake.import_file(
                        session,
                        projects.named(session, project),
                        accounts.admin_named(session, by),
                        opened,
                        format_name=format_name,
                        dataset=dataset or found.name,
                        judge=None if judge is None else "ai" if judge is Judge.AI else "human",
                        told=told,
                    )
                )
    for file, report in zip(found.files, reports, strict=True):
        if len(reports) > 1:
            console.print(f"[bold]{file.name}[/bold]")
        console.print(report.sentence())
        for count, what in (
            (report.duplicates_in_file, "stood in the file before"),
            (report.duplicates_in_project, "stood in the project before"),
            (report.left_out, "lines were left out"),
        ):
            if count:
                console.print(f"{count:,} {what}.")
        for line in report.left_out_lines:
            console.print(f"  {line}", style="dim")


@app.command()
def backup(folder: Annotated[Path, typer.Argument(help="The folder to make.")]) -> None:
    """Save the database, and what files stand beside it. Prove it with `plackett restore FOLDER --verify`."""
    settings = _settings()
    from app import db
    from app.embedded import access
    from app.embedded import backup as backups
    from app.services.accounts import backups as noted

    with access.database_for_command(settings) as url:
        with console.status("Saving …"):
            facts = backups.make(url, settings.var.absolute(), folder.absolute())
        with db.transaction() as session:
            noted.note_made(session, facts.dump_sha256, facts.made_at)
    console.print(f"{facts.rows:,} rows of {len(facts.tables)} tables; {len(facts.artifacts):,} files are listed.")
    console.print("Files are not copied: save snapshots/, ledgers/ and runs/ of the data folder as well.", style="dim")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The backup's folder.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Restore into a server that is thrown away, compare, and note the outcome.")
    ] = False,
) -> None:
    """Restore a backup into the empty database of DATABASE_URL, or only prove that it would come back."""
    settings = _settings()
    from app import db
    from app.embedded import access
    from app.embedded import backup as backups
    from app.services.accounts import backups as noted

    if not verify:
        if settings.database_url is None:
            raise PlackettError("Set DATABASE_URL to the empty database to restore into, or use --verify.")
        with console.status("Restoring …"):
            facts = backups.restore(folder, settings.database_url)
        console.print(f"{facts.rows:,} rows of {len(facts.tables)} tables came back as they were.")
    else:
        with console.status("Restoring into a server of its own …"):
            facts = backups.verify(folder)
        with access.database_for_command(settings), db.transaction() as session:
            noted.note_verified(session, facts.dump_sha256, facts.made_at)
        console.print(f"{facts.rows:,} rows of {len(facts.tables)} tables come back, and the application runs on them.")
    missing = backups.missing_artifacts(facts, settings.var.absolute())
    if missing:
        raise PlackettError(f"{len(missing)} files beside the database are missing or differ, such as {missing[0]}.")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"plackett {importlib.metadata.version('plackett')}")


def _settings(*, host: str | None = None, port: int | None = None, var: Path | None = None) -> Settings:
    """Return the settings, with what the command line says put on top of the environment for us and our children."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    for field, value in (("HOST", host), ("PORT", port), ("VAR", var and var.absolute())):
        if value is not None:
            os.environ[f"PLACKETT_{field}"] = str(value)
    get_settings.cache_clear()
    try:
        return get_settings()
    except SettingsError as error:  # of its causes nothing is told: they may repeat what stands there
        raise PlackettError(f"A setting in the environment or in .env cannot be read ({error}).") from None
    except ValidationError as error:
        # A variable's name is its field's with our prefix; the two names without a prefix are upper-case already.
        names = [str(problem["loc"][0]) for problem in error.errors()]
        shown = [name if name.isupper() else f"PLACKETT_{name.upper()}" for name in names]
        said = "; ".join(f"{name}: {problem['msg']}" for name, problem in zip(shown, error.errors(), strict=True))
        raise PlackettError(f"A setting in the environment or in .env cannot be used ({said}).") from None


def _become(command: list[str]) -> None:
    """Replace this process by the command, so that signals reach it without a go-between."""
    os.execv(command[0], command)  # noqa: S606  (no shell is wanted)


def main() -> None:
    """Run the command line; an expected error becomes its sentence on stderr and exit status 1."""
    try:
        app()
    except PlackettError as error:
        sys.stderr.write(f"{error}\n")
        if isinstance(error, InvalidInputError):
            sys.stderr.writelines(f"  {line}\n" for line in error.details)
        sys.exit(1)


if __name__ == "__main__":
    main()
