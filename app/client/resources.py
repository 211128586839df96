"""A method for each route of the REST API: what is read is an object or a list of them, what is sent is named fields.

Fields and filters that stand here as `**fields` and `**filters` are those that `/api/docs` of the server describes; one
that it does not know is refused with its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.client.connection import Connection, Found, Id
from app.errors import InvalidInputError

API = "/api/v1"
RUN_ENDS = ("succeeded", "failed", "cancelled")
WAIT_SECONDS = 3600.0
WEEK_SECONDS = 7 * 86_400.0


class Resources(Connection):
    """What can be read and changed, one request each; lists are read to their end."""

    # The token, projects and people.

    def token(self) -> Found:
        """Return what the token may do."""
        return self._get(f"{API}/token")

    def projects(self, **filters: Any) -> list[Found]:
        """Return the projects that the token may see."""
        return list(self._items(f"{API}/projects", **filters))

    def project(self, project_id: Id) -> Found:
        """Return a project and its settings."""
        return self._get(f"{API}/projects/{project_id}")

    def create_project(self, name: str, guidelines: str, **fields: Any) -> Found:
        """Make a project with the first version of its guidelines."""
        return self._made(f"{API}/projects", {"name": name, "guidelines": guidelines, **fields})

    def change_project(self, project_id: Id, *, if_match: str = "*", **fields: Any) -> Found:
        """Change settings of a project, or its state; what is not named stays."""
        return self._changed("PATCH", f"{API}/projects/{project_id}", fields, if_match)

    def members(self, project_id: Id) -> Iterator[Found]:
        """Yield who has a standing in a project."""
        return self._items(_of(project_id, "members"))

    def set_member(self, project_id: Id, user_id: Id, state: str) -> Found:
        """Let somebody in (`active`), put them on trial (`screening`), turn them down or take them out."""
        return self._changed("PUT", f"{_of(project_id, 'members')}/{user_id}", {"state": state})

    def labelers(self, project_id: Id) -> Iterator[Found]:
        """Yield who has worked in a project, with figures."""
        return self._items(_of(project_id, "labelers"))

    # Prompts, answers and tasks.

    def prompts(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's prompts."""
        return self._items(_of(project_id, "prompts"), **filters)

    def prompt(self, prompt_id: Id) -> Found:
        """Return a prompt."""
        return self._get(f"{API}/prompts/{prompt_id}")

    def add_prompts(self, project_id: Id, prompts: Sequence[Mapping[str, Any]]) -> list[Found]:
        """Add up to 200 prompts with their answers, all or none, and return what became of each."""
        return list(map(Found, self._made(_of(project_id, "prompts"), {"prompts": prompts})["prompts"]))

    def completions(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield the answers to a project's prompts."""
        return self._items(_of(project_id, "completions"), **filters)

    def completion(self, completion_id: Id) -> Found:
        """Return an answer."""
        return self._get(f"{API}/completions/{completion_id}")

    def add_completion(self, prompt_id: Id, text: str, model: str | None = None) -> Found:
        """Add an answer to a prompt: a model's, or without one a person's."""
        return self._made(f"{API}/prompts/{prompt_id}/completions", {"text": text, "model": model})

    def tasks(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's tasks."""
        return self._items(_of(project_id, "tasks"), **filters)

    def task(self, task_id: Id) -> Found:
        """Return a task."""
        return self._get(f"{API}/tasks/{task_id}")

    def make_task(self, project_id: Id, completion_ids: Sequence[Id], **fields: Any) -> Found:
        """Make a ranking task of answers to one prompt."""
        return self._made(_of(project_id, "tasks"), {"completion_ids": list(completion_ids), **fields})

    def open_tasks(self, project_id: Id, kind: str) -> int:
        """Open a project's drafts of a kind, `ranking` or `demonstration`, and return how many are new to labelers."""
        return int(self._made(_of(project_id, "tasks/open"), {"kind": kind})["opened"])

    def change_task(self, task_id: Id, *, if_match: str = "*", **fields: Any) -> Found:
        """Close or reopen a task, or change its priority or overlap."""
        return self._changed("PATCH", f"{API}/tasks/{task_id}", fields, if_match)

    # What labelers have given.

    def rankings(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's rankings, also superseded ones; an export is the faster way to many."""
        return self._items(_of(project_id, "rankings"), **filters)

    def ranking(self, ranking_id: Id) -> Found:
        """Return a ranking."""
        return self._get(f"{API}/rankings/{ranking_id}")

    def demonstrations(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's demonstrations and edits."""
        return self._items(_of(project_id, "demonstrations"), **filters)

    def demonstration(self, demonstration_id: Id) -> Found:
        """Return a demonstration."""
        return self._get(f"{API}/demonstrations/{demonstration_id}")

    def chat_turns(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield the turns of a project's chats."""
        return self._items(_of(project_id, "chat-turns"), **filters)

    def chat_turn(self, turn_id: Id) -> Found:
        """Return a turn of a chat."""
        return self._get(f"{API}/chat-turns/{turn_id}")

    # Snapshots, runs and models.

    def snapshots(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's snapshots."""
        return self._items(_of(project_id, "snapshots"), **filters)

    def snapshot(self, snapshot_id: Id) -> Found:
        """Return a snapshot with its manifest."""
        return self._get(f"{API}/snapshots/{snapshot_id}")

    def freeze(self, project_id: Id, *, seconds: float = WAIT_SECONDS) -> Found:
        """Freeze what counts now and return the snapshot, waiting for a worker where there is much."""
        answer = self._post(_of(project_id, "snapshots"))
        made = Found(answer.json())
        return made if "manifest" in made else self.snapshot(self.outcome(made["id"], seconds=seconds)["snapshot_id"])

    def difference(self, snapshot_id: Id, other_id: Id) -> Found:
        """Return what came and went between two snapshots."""
        return self._get(f"{API}/snapshots/{snapshot_id}/difference/{other_id}")

    def runs(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's runs."""
        return self._items(_of(project_id, "runs"), **filters)

    def run(self, run_id: Id) -> Found:
        """Return a run and how far it is."""
        return self._get(f"{API}/runs/{run_id}")

    def queue_run(self, project_id: Id, method: str, model_id: Id, **fields: Any) -> Found:
        """Queue a run of a method from a model; `options` are the method's own."""
        return self._made(_of(project_id, "runs"), {"method": method, "model_id": model_id, **fields})

    def cancel_run(self, run_id: Id) -> Found:
        """Cancel a run; one at work stops at its next heartbeat."""
        return self._made(f"{API}/runs/{run_id}/cancel")

    def finished_run(self, run_id: Id, *, seconds: float = WEEK_SECONDS) -> Found:
        """Wait for the end of a run, whatever it is, and return the run."""
        return self._over(lambda: self.run(run_id), "run", RUN_ENDS, seconds)

    def models(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's model versions."""
        return self._items(_of(project_id, "models"), **filters)

    def model(self, model_id: Id) -> Found:
        """Return a model version."""
        return self._get(f"{API}/models/{model_id}")

    def promote(self, model_id: Id) -> Found:
        """Make a policy the one in use."""
        return self._made(f"{API}/models/{model_id}/promote")

    def roll_back(self, project_id: Id, leaving_id: Id) -> Found:
        """Use the policy again that was in use before `leaving_id`, and return it."""
        return self._made(_of(project_id, "roll-back"), {"leaving_id": leaving_id})

    def promotions(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield which policy was in use since when."""
        return self._items(_of(project_id, "promotions"), **filters)

    # Judging policies.

    def blind_evaluations(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's blind evaluations."""
        return self._items(_of(project_id, "blind-evaluations"), **filters)

    def blind_evaluation(self, evaluation_id: Id) -> Found:
        """Return a blind evaluation with its figures."""
        return self._get(f"{API}/blind-evaluations/{evaluation_id}")

    def start_blind_evaluation(
        self, project_id: Id, run_id: Id, candidate_id: Id, incumbent_id: Id, *, overlap: int = 1
    ) -> Found:
        """Open the tasks that compare two policies on the answers of an evaluation run."""
        sent = {"run_id": run_id, "candidate_id": candidate_id, "incumbent_id": incumbent_id, "overlap": overlap}
        return self._made(_of(project_id, "blind-evaluations"), sent)

    def stop_blind_evaluation(self, evaluation_id: Id) -> Found:
        """Stop a blind evaluation; what is known by then stands."""
        return self._made(f"{API}/blind-evaluations/{evaluation_id}/stop")

    def gate(self, project_id: Id) -> Found:
        """Return what a candidate has to reach."""
        return self._get(_of(project_id, "gate"))

    def set_gate(self, project_id: Id, *, if_match: str = "*", **limits: Any) -> Found:
        """Set all thresholds anew: what is not named is not asked for."""
        return self._changed("PUT", _of(project_id, "gate"), limits, if_match)

    def judge(self, model_id: Id) -> Found:
        """Hold a policy against the gate now, and return the verdict."""
        return self._made(f"{API}/models/{model_id}/verdicts")

    def verdicts(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield what a project's gate has said."""
        return self._items(_of(project_id, "verdicts"), **filters)

    # The weekly loop, and jobs.

    def schedules(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's schedules."""
        return self._items(_of(project_id, "schedules"), **filters)

    def schedule(self, schedule_id: Id) -> Found:
        """Return a schedule."""
        return self._get(f"{API}/schedules/{schedule_id}")

    def create_schedule(
        self, project_id: Id, name: str, cron: str, timezone: str, recipe: Mapping[str, Any], **fields: Any
    ) -> Found:
        """Make a schedule of a recipe."""
        sent = {"name": name, "cron": cron, "timezone": timezone, "recipe": recipe, **fields}
        return self._made(_of(project_id, "schedules"), sent)

    def change_schedule(self, schedule_id: Id, *, if_match: str = "*", **fields: Any) -> Found:
        """Change a schedule, pause it (`paused=True`) or let it go on; what is not named stays."""
        return self._changed("PATCH", f"{API}/schedules/{schedule_id}", fields, if_match)

    def pipelines(self, project_id: Id, **filters: Any) -> Iterator[Found]:
        """Yield a project's rounds with their stages."""
        return self._items(_of(project_id, "pipelines"), **filters)

    def pipeline(self, pipeline_id: Id) -> Found:
        """Return a round with its stages."""
        return self._get(f"{API}/pipelines/{pipeline_id}")

    def cancel_pipeline(self, pipeline_id: Id) -> Found:
        """Cancel a round."""
        return self._made(f"{API}/pipelines/{pipeline_id}/cancel")

    def job(self, job_id: Id) -> Found:
        """Return a worker's job: a snapshot or an import that takes longer."""
        return self._get(f"{API}/jobs/{job_id}")

    def outcome(self, job_id: Id, *, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Wait for the end of a job and return its result; a refusal names its lines in `details`.

        Raises `StillRunningError` after so many seconds: the job goes on, and can be waited for again.
        """
        found = self._over(lambda: self.job(job_id), "job", ("succeeded", "failed"), seconds)
        if found["state"] == "failed":
            raise InvalidInputError(str(found["reason"]), details=tuple(found["details"]))
        result: dict[str, Any] = found["result"]
        return result


def _of(project_id: Id, name: str) -> str:
    return f"{API}/projects/{project_id}/{name}"
