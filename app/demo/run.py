"""`plackett demo`: start the embedded stack, run the whole loop once on a real model, say what came of it.

Everything lies in VAR/demo, apart from any other data, with PostgreSQL and Redis of its own even where the environment
names some: a demo has no business in a real database. A second demo in the same folder makes a new project beside the
old ones. The converted model lies in VAR/models, for all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from rich.console import Console
from sqlalchemy import select

from app import db
from app.demo import accounts, loop, report, weekly, weekly_plan, weekly_report
from app.demo.accounts import Account
from app.demo.loop import Scene
from app.demo.model import ensure_model
from app.demo.plan import SECONDS
from app.demo.progress import Story
from app.demo.results import Result
from app.embedded import access
from app.embedded.folder import is_held, require_free_space
from app.embedded.stack import Stack
from app.errors import SetupError
from app.models import Run
from app.services.training.round_figures import Rounds
from app.settings import Settings

MARKER = "demo.json"
BYTES_NEEDED = 6 << 30
"""A turn leaves about 2 GiB of models and checkpoints; while it runs, partial ones lie beside them."""


def demo(
    settings: Settings, console: Console, *, seed: int = 0, fresh: bool = False, stay: Callable[[Stack], None]
) -> Result:
    """Run the demo under `settings.var` and return its result.

    `stay` is called with the running stack once all is said; when it returns, everything is stopped.
    Raises `SetupError` when the machine is not fit, `loop.DemoError` when a step fails.
    """
    with _stage(settings, console, seed, fresh=fresh) as stage:
        result, project_id = loop.turn(stage.scene, stage.model)
        stage.scene.story.close()
        path = report.write(stage.folder, result, _training_runs(project_id), stage.scene.story.seconds)
        console.print(report.table(result))
        for sentence in report.sentences(result):
            console.print(sentence)
        stage.say_goodbye(console, path, project_id)
        stay(stage.stack)
    return result


def demo_weekly(
    settings: Settings,
    console: Console,
    *,
    rounds: int,
    prompts: int,
    seed: int = 0,
    fresh: bool = False,
    stay: Callable[[Stack], None],
) -> Rounds:
    """Run the weekly form under `settings.var`: rounds that a schedule starts. Otherwise as `demo`."""
    with _stage(settings, console, seed, fresh=fresh, expected=weekly_plan.seconds(rounds)) as stage:
        project_id, result = weekly.run(stage.scene, stage.model, rounds, prompts)
        stage.scene.story.close()
        told = weekly_report.Told(
            result,
            weekly.occurrences(project_id),
            weekly.stage_seconds(project_id),
            stage.scene.story.seconds,
            seed,
        )
        path = weekly_report.write(stage.folder, told)
        console.print(weekly_report.table(result))
        for sentence in weekly_report.sentences(result):
            console.print(sentence)
        stage.say_goodbye(console, path, project_id)
        stay(stage.stack)
    return result


@dataclass(frozen=True)
class _Stage:
    """A running stack with everybody signed in."""

    scene: Scene
    stack: Stack
    model: Path
    folder: Path
    account: Account

    def say_goodbye(self, console: Console, path: Path, project_id: UUID) -> None:
        """Say how long it took, and where to go on."""
        url = self.stack.url
        console.print(
            f"\nThe whole demo took {sum(self.scene.story.seconds.values()) / 60:.1f} minutes. Report: {path}"
        )
        console.print(
            f"\n[bold]{url}/projects/{project_id}[/bold]\n"
            f"Rank the next answers, or chat with the models: {accounts.invite_guest(url)} (works once)\n"
            f"Look behind the scenes: {url}/sign-in as {self.account.email}, password {self.account.password}",
            soft_wrap=True,
        )
        console.print(f"Once stopped, `plackett up --var {self.folder}` starts this server again.", soft_wrap=True)


@contextmanager
def _stage(
    settings: Settings, console: Console, seed: int, *, fresh: bool, expected: Mapping[str, float] = SECONDS
) -> Iterator[_Stage]:
    """Start the stack in the demo's folder, sign everybody in, and stop it all afterwards."""
    folder = (settings.var / "demo").absolute()
    prepare(folder, fresh=fresh)
    with console.status("Preparing the model (about 20 seconds, the first time only)"):
        model = ensure_model(settings.var / "models")
    own = settings.model_copy(update={"database_url": None, "redis_url": None, "var": folder})
    stack = Stack(own, report=lambda sentence: console.print(sentence, style="dim"))
    console.print("Every ranking below is [bold]simulated[/bold]: see app/demo/preference.py for what it rewards.")
    with ExitStack() as resources:
        resources.enter_context(stack)
        resources.enter_context(access.using(stack.environment))
        marker = folder / MARKER
        account, admin = accounts.open_admin(marker, stack.url)
        resources.callback(admin.close)
        workers = accounts.open_workers(marker, stack.url)
        for worker in workers:
            resources.callback(worker.browser.close)
        story = resources.enter_context(Story(console, expected))
        yield _Stage(Scene(admin, workers, story, seed, stack.wait), stack, model, folder, account)


def prepare(folder: Path, *, fresh: bool) -> None:
    """Check the demo's folder; `fresh` deletes an earlier demo in it, and nothing that is none."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise SetupError(f"{folder} holds something that is no demo; move it away, or choose another place with --var.")
    if fresh and folder.exists():
        if is_held(folder):
            raise SetupError(f"A demo is running in {folder}; stop it before you start a fresh one.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    accounts.mark(folder / MARKER)
    require_free_space(folder, BYTES_NEEDED)


def _training_runs(project_id: UUID) -> dict[str, Path]:
    with db.transaction() as session:
        rows = session.execute(select(Run.method, Run.id).where(Run.project_id == project_id)).all()
    return {method: loop.folder_of(run_id) for method, run_id in rows}
