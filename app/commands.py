"""Commands on what is there already: `plackett snapshot|runs|models|token …`, each a list, a few facts, or one change.

They work on the database itself, on the server's own machine, as `plackett import` does. Imports stand inside the
commands for the reason that `app.cli` gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.settings import Settings, get_settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

snapshot = typer.Typer(help="Snapshots: list, create, show, compare.", no_args_is_help=True)
runs = typer.Typer(help="Runs: list, show, start, cancel.", no_args_is_help=True)
models = typer.Typer(help="Model versions: list, promote, go back to the policy before.", no_args_is_help=True)
token = typer.Typer(help="Tokens of the REST API: list, create, revoke.", no_args_is_help=True)

console = Console(highlight=False)

ProjectOption = Annotated[str, typer.Option("--project", help="Name of the project.")]
ByOption = Annotated[str, typer.Option("--by", help="E-mail of the admin who does it; the audit log names them.")]
NumberArgument = Annotated[int, typer.Argument(help="The snapshot's number in its project.")]
JsonOption = Annotated[bool, typer.Option("--json", help="All of it, as JSON.")]


@snapshot.command("list")
def list_snapshots(project: ProjectOption) -> None:
    """List a project's snapshots, the newest first."""
    from app.services.projects import projects
    from app.services.training import snapshots

    with _session() as session:
        found = snapshots.of_project(session, projects.named(session, project).id)
        _table(
            ("snapshot", "prompts", "rankings", "demonstrations", "made", "sha256", "id"),
            [
                (
                    str(each.number),
                    *(_rows(each.manifest, name) for name in ("prompts", "comparisons", "demonstrations")),
                    f"{each.created_at:%Y-%m-%d %H:%M}",
                    each.sha256,
                    str(each.id),
                )
                for each in found
            ],
        )


@snapshot.command("create")
def create_snapshot(project: ProjectOption, by: ByOption) -> None:
    """Freeze what counts now; without new answers this names the snapshot that is there."""
    from app.services.accounts import accounts
    from app.services.projects import projects
    from app.services.training import snapshots

    with progress("Freezing") as told, _session() as session:
        made = snapshots.create(session, projects.named(session, project), accounts.admin_named(session, by), told)
        number, folder = made.number, made.uri
    console.print(f"Snapshot {number}: {folder}", soft_wrap=True)


@snapshot.command("show")
def show_snapshot(number: NumberArgument, project: ProjectOption, as_json: JsonOption = False) -> None:
    """Print a snapshot's data card, or its manifest as JSON."""
    from app.services.projects import projects
    from app.services.training import data_cards, snapshots

    with _session() as session:
        found = snapshots.numbered(session, projects.named(session, project), number)
        manifest, sha256 = found.manifest, found.sha256
    typer.echo(_json(manifest) if as_json else data_cards.markdown(manifest, sha256).rstrip())


@snapshot.command("diff")
def diff_snapshots(
    older: NumberArgument, newer: NumberArgument, project: ProjectOption, as_json: JsonOption = False
) -> None:
    """Say what came and what went between two snapshots, and why."""
    from app.services.projects import projects
    from app.services.training import snapshot_diffs, snapshots

    with _session() as session:
        of = projects.named(session, project)
        first, second = (snapshots.numbered(session, of, number) for number in sorted((older, newer)))
        found = snapshot_diffs.compare(session, first, second)
        shown = found.as_dict()
    if as_json:
        typer.echo(_json(shown))
        return
    for kind, words in (("prompts", "prompts"), ("comparisons", "rankings"), ("demonstrations", "demonstrations")):
        changes = found.changes[kind]
        console.print(f"{words}: {changes.added:,} added, {changes.removed:,} removed, {changes.kept:,} in both")
        for reason, count in sorted(changes.because.items()):
            console.print(f"  {count:,} {reason}", style="dim")
        for group, counts in changes.by.items():
            for name, sides in sorted(counts.items()):
                what = f"{group.replace('_', ' ')} {name}"
                console.print(f"  {what}: {sides['added']:,} added, {sides['removed']:,} removed", style="dim")


@runs.command("list")
def list_runs(project: Annotated[str, typer.Option("--project", help="Only this project's.")] = "") -> None:
    """List the newest runs."""
    from app.services.projects import projects
    from app.services.training import run_views as service

    with _session() as session:
        chosen = projects.named(session, project).id if project else None
        _table(
            ("run", "name", "project", "state", "step", "made"),
            [
                (str(run.id), run.name, name, run.state, _step(run.progress_step, run.progress_total),
                 f"{run.created_at:%Y-%m-%d %H:%M}")
                for run, name in service.listed(session, chosen)
            ],
        )  # fmt: skip


@runs.command("show")
def show_run(run: Annotated[UUID, typer.Argument(help="Id of the run.")]) -> None:
    """Print what a run is, how far it is, and the figures of its report, as JSON."""
    from app.services.training import runs as service

    with _session() as session:
        found = service.get(session, run)
        names = ("id", "project_id", "name", "method", "state", "state_reason", "attempt", "progress_step",
                 "progress_total", "snapshot_id", "parent_model_id", "config", "created_at", "started_at",
                 "finished_at")  # fmt: skip
        shown = {name: getattr(found, name) for name in names}
        shown |= {"model_id": service.result_id(session, found), "summary": (found.report or {}).get("summary")}
    typer.echo(_json(shown))


@runs.command("files")
def bring_files(
    run: Annotated[UUID, typer.Argument(help="Id of the run.")],
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
) -> None:
    """Bring what a finished run leaves for people: report, plots, metrics, samples and TensorBoard's files."""
    from app.services.training import run_files
    from app.services.training import runs as service

    with _session() as session:
        found = service.get(session, run)
    run_files.bring(found, folder)
    console.print(f"They are in {folder}. Curves: tensorboard --logdir {folder}", soft_wrap=True)


@runs.command("start")
def start_run(
    method: Annotated[str, typer.Argument(help="sft, reward, dpo, …: a method that learns from a snapshot.")],
    project: ProjectOption,
    by: ByOption,
    model: Annotated[str, typer.Option(help="Name of the model version to start from.")],
    number: Annotated[int, typer.Option("--snapshot", help="Number of the snapshot; default: the newest.")] = 0,
    reward_model: Annotated[str, typer.Option(help="Name of the reward model, for PPO.")] = "",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    options: Annotated[
        Path | None, typer.Option(help="A file of JSON with options of the method, as run.json has them.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs of one worker it waits for.")] = 1,
) -> None:
    """Queue a training run, with the usual settings but for the options, and print its id. A GPU worker takes it."""
    from app.services.accounts import accounts
    from app.services.projects import projects
    from app.services.training import registry, snapshots
    from app.services.training import runs as service

    with _session() as session:
        of = projects.named(session, project)
        versions = {each.name: each for each in registry.of_project(session, of.id)}
        for name in filter(None, (model, reward_model)):
            if name not in versions:
                raise NotFoundError(f"The project {of.name} has no model named “{name}”.")
        newest = snapshots.of_project(session, of.id)
        if not newest:
            raise NotFoundError(f"The project {of.name} has no snapshot yet; freeze one first.")
        made = service.create_training_run(
            session,
            of,
            method,
            accounts.admin_named(session, by),
            model=versions[model],
            snapshot=snapshots.numbered(session, of, number) if number else newest[0],
            reward_model=versions[reward_model] if reward_model else None,
            options=None if options is None else _options(options),
            gpus=gpus,
            seed=seed,
        )
        run_id = made.id
    console.print(str(run_id))


@runs.command("cancel")
def cancel_run(run: Annotated[UUID, typer.Argument(help="Id of the run.")], by: ByOption) -> None:
    """Cancel a queued run at once, or ask the worker of a running one to stop."""
    from app.services.accounts import accounts
    from app.services.training import run_states

    with _session() as session:
        state = run_states.request_cancel(session, run, accounts.admin_named(session, by).id)
    console.print(f"The run is {state}." if state != "running" else "The worker has been asked to stop.")


@models.command("list")
def list_models(project: ProjectOption) -> None:
    """List a project's model versions, the newest first."""
    from app.services.projects import projects
    from app.services.training import registry

    with _session() as session:
        found = registry.of_project(session, projects.named(session, project).id)
        _table(
            ("model", "kind", "method", "state", "made", "id"),
            [
                (each.name, each.kind, each.method, each.state, f"{each.created_at:%Y-%m-%d %H:%M}", str(each.id))
                for each in sorted(found, key=lambda each: each.id, reverse=True)
            ],
        )


@models.command("promote")
def promote_model(
    name: Annotated[str, typer.Argument(help="Name of the policy.")], project: ProjectOption, by: ByOption
) -> None:
    """Make a policy the one in use, on an admin's word; what the gate says of it is kept beside."""
    from app.services.accounts import accounts
    from app.services.evaluation import gate, promotions
    from app.services.projects import projects
    from app.services.training import registry

    with _session() as session:
        of = projects.named(session, project)
        model = next((each for each in registry.of_project(session, of.id) if each.name == name), None)
        if model is None:
            raise NotFoundError(f"The project {of.name} has no model named “{name}”.")
        promotions.promote(session, model, accounts.admin_named(session, by))
        verdict = gate.newest(session, model.id)
        failed = [] if verdict is None else [check.name for check in gate.checks_of(verdict) if not check.passed]
    console.print(f"{name} is in use.")
    if failed:
        console.print(f"The gate would not have let it pass: {', '.join(failed)}.", style="dim")


@models.command("roll-back")
def roll_back_model(
    name: Annotated[str, typer.Argument(help="Name of the policy to leave, which is in use.")],
    project: ProjectOption,
    by: ByOption,
) -> None:
    """Use the policy again that was in use before this one."""
    from app.services.accounts import accounts
    from app.services.evaluation import promotions
    from app.services.projects import projects
    from app.services.training import registry

    with _session() as session:
        of = projects.named(session, project)
        active = registry.active(session, of.id)
        if active is None or active.name != name:
            raise ConflictError(f"{name} is not in use" + (f", {active.name} is." if active else "; nothing is."))
        before = promotions.roll_back(session, of, accounts.admin_named(session, by), active.id).name
    console.print(f"{before} is in use.")


@token.command("list")
def list_tokens() -> None:
    """List all tokens, the newest first. Their secrets are stored nowhere."""
    from app.services.accounts import tokens

    with _session() as session:
        ended = set(tokens.ended(session))
        _table(
            ("token", "name", "of", "scopes", "project", "state", "last used"),
            [
                (
                    str(each.id),
                    each.name,
                    user.email,
                    " ".join(each.scopes),
                    name or "all",
                    "revoked" if each.revoked_at else "over" if each.id in ended else f"to {each.expires_at:%Y-%m-%d}",
                    f"{each.last_used_at:%Y-%m-%d %H:%M}" if each.last_used_at else "never",
                )
                for each, user, name in tokens.listed(session)
            ],
        )


@token.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    by: ByOption,
    scope: Annotated[list[str], typer.Option(help="What it may do, such as export:read; several are fine.")],
    project: Annotated[str, typer.Option("--project", help="Only this project; default: all.")] = "",
    days: Annotated[int, typer.Option(help="How long it lasts.")] = 90,
) -> None:
    """Make a token and print it once; nobody can read it again."""
    from app.services.accounts import accounts, tokens
    from app.services.projects import projects

    with _session() as session:
        only = projects.named(session, project).id if project else None
        admin = accounts.admin_named(session, by)
        _, secret = tokens.create(session, admin, name=name, scopes=scope, project_id=only, days=days)
    typer.echo(secret)


@token.command("revoke")
def revoke_token(
    found: Annotated[UUID, typer.Argument(metavar="TOKEN", help="Id of the token.")], by: ByOption
) -> None:
    """End a token now."""
    from app.services.accounts import accounts, tokens

    with _session() as session:
        tokens.revoke(session, found, accounts.admin_named(session, by))
    console.print("The token is revoked.")


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """Yield what moves a bar on the terminal, from 0 to 1; elsewhere nothing is shown."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=1.0)
        yield lambda part: shown.update(task, completed=part)


@contextmanager
def _session() -> Iterator[Session]:
    """Yield one transaction on the database that the settings name, or that of the embedded stack."""
    settings: Settings = get_settings()
    from app import db
    from app.embedded import access

    with access.database_for_command(settings), db.transaction() as session:
        yield session


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not console.is_terminal:  # for other programs: a line each, parted by tabs
        for row in rows:
            typer.echo("\t".join(row))
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _rows(manifest: dict[str, dict[str, dict[str, int]]], name: str) -> str:
    return str(manifest["files"][f"{name}.jsonl"]["rows"])


def _options(path: Path) -> dict[str, object]:
    """Return the options that a file holds."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(found, dict):
        raise InvalidInputError(f"{path} holds no object of options.")
    return found


def _step(step: int | None, total: int | None) -> str:
    return "" if step is None else f"{step}/{total}" if total else str(step)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)
