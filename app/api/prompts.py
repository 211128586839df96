"""REST API, version 1: prompts and the answers to them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, model_validator
from starlette.responses import Response

from app.api.callers import ExportCaller, ExportProject, ImportCaller, ImportProject
from app.api.once import OnceDep
from app.api.problems import PROBLEMS, WRITES
from app.api.schemas import Closed, Page, PageQuery, Text, example, page
from app.db import SessionDep
from app.services.accounts import tokens
from app.services.api import work
from app.services.projects import added
from app.services.projects.added import NewCompletion, NewPrompt
from trainer.records import Message

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["prompts"])

MOST_AT_ONCE = 200
Role = Literal["system", "user", "assistant"]
Tag = Annotated[str, Field(min_length=1, max_length=40, pattern="^[a-z0-9:_-]+$")]


class MessageOut(Closed):
    """One turn of a conversation."""

    role: Role
    content: str


class PromptOut(Closed):
    """A conversation that ends on the user's turn, and the side of the split it is on for ever."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000021",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "position": 0,
            "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            "split": "train",
            "source": "import",
            "import_id": None,
            "dataset": None,
            "tags": ["lang:en"],
            "created_at": "2026-11-02T09:00:00Z",
        }
    )
    id: UUID
    project_id: UUID
    position: int = Field(description="its place in the order of the project's prompts; there may be gaps")
    messages: list[MessageOut]
    split: Literal["train", "held_out"]
    source: Literal["import", "chat"]
    import_id: UUID | None = Field(description="the import that brought it")
    dataset: str | None = Field(description="where an imported one comes from")
    tags: list[str]
    created_at: datetime


class CompletionOut(Closed):
    """An answer to a prompt: of a model of the registry, of a model elsewhere (`model`), or written by a person."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000023",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "prompt_id": "0198c0de-0000-7000-8000-000000000021",
            "text": "It scatters.",
            "source": "model",
            "model_version_id": "0198c0de-0000-7000-8000-000000000012",
            "model": None,
            "run_id": "0198c0de-0000-7000-8000-000000000011",
            "sample_index": 0,
            "finish_reason": "stop",
            "parent_id": None,
            "created_at": "2026-11-02T09:00:00Z",
        }
    )
    id: UUID
    project_id: UUID
    prompt_id: UUID
    text: str
    source: Literal["model", "human", "edit"]
    model_version_id: UUID | None
    model: str | None
    run_id: UUID | None
    sample_index: int | None
    finish_reason: str | None
    parent_id: UUID | None
    created_at: datetime


class MessageIn(Closed):
    """One turn of a conversation."""

    role: Role
    content: Text = Field(min_length=1, max_length=400_000)

    @model_validator(mode="after")
    def _has_words(self) -> MessageIn:
        if not self.content.strip():
            raise ValueError("A message has some text.")
        return self


class CompletionIn(Closed):
    """An answer from elsewhere: `model` names the model that gave it; without one, a person wrote it."""

    model_config = example({"text": "Because you say so.", "model": "some-model-7b"})
    text: Text = Field(min_length=1, max_length=400_000)
    model: Text | None = Field(None, min_length=1, max_length=200)

    def new(self) -> NewCompletion:
        """Return it as the service takes it."""
        return NewCompletion(self.text, self.model)


class PromptIn(Closed):
    """A prompt, and answers to it if there are some."""

    messages: list[MessageIn] = Field(min_length=1, max_length=1000)
    tags: list[Tag] = Field([], max_length=20)
    completions: list[CompletionIn] = Field([], max_length=16)

    @model_validator(mode="after")
    def _is_a_conversation(self) -> PromptIn:
        if self.messages[-1].role != "user":
            raise ValueError("A prompt ends on the user's turn.")
        if any(message.role == "system" for message in self.messages[1:]):
            raise ValueError("A system message is the first one.")
        return self


class PromptsIn(Closed):
    """Prompts to add: all of them or, when one will not do, none."""

    model_config = example(
        {
            "prompts": [
                {
                    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
                    "tags": ["lang:en"],
                    "completions": [{"text": "It scatters.", "model": "a"}, {"text": "It is painted.", "model": "b"}],
                }
            ]
        }
    )
    prompts: list[PromptIn] = Field(min_length=1, max_length=MOST_AT_ONCE)


class AddedOut(Closed):
    """What became of one prompt; `added` is false when the project had it before."""

    prompt_id: UUID
    added: bool
    completion_ids: list[UUID]


class AddedPromptsOut(Closed):
    """What became of the prompts, in the order they were sent."""

    model_config = example(
        {
            "prompts": [
                {
                    "prompt_id": "0198c0de-0000-7000-8000-000000000021",
                    "added": True,
                    "completion_ids": ["0198c0de-0000-7000-8000-000000000023", "0198c0de-0000-7000-8000-000000000024"],
                },
            ],
        }
    )
    prompts: list[AddedOut]


class PromptsQuery(PageQuery):
    """Which prompts."""

    split: Literal["train", "held_out"] | None = None
    source: Literal["import", "chat"] | None = None
    tag: Tag | None = None


class CompletionsQuery(PageQuery):
    """Which completions."""

    prompt_id: UUID | None = None
    run_id: UUID | None = None
    source: Literal["model", "human", "edit"] | None = None


@router.get("/projects/{project_id}/prompts")
def list_prompts(
    session: SessionDep, project: ExportProject, asked: Annotated[PromptsQuery, Query()]
) -> Page[PromptOut]:
    """List a project's prompts."""
    return page(
        asked,
        PromptOut,
        lambda part: work.prompts(session, project.id, part, split=asked.split, source=asked.source, tag=asked.tag),
        project.id,
    )


@router.post("/projects/{project_id}/prompts", responses=WRITES, status_code=201, response_model=AddedPromptsOut)
def add_prompts(
    sent: PromptsIn, session: SessionDep, caller: ImportCaller, project: ImportProject, once: OnceDep
) -> Response:
    """Add prompts with their answers. A prompt that the project has already is not added again; its answers are."""
    new = [
        NewPrompt(
            tuple(Message(message.role, message.content) for message in item.messages),
            tuple(item.tags),
            tuple(completion.new() for completion in item.completions),
        )
        for item in sent.prompts
    ]
    made = added.prompts(session, project, tokens.maker(session, caller), new)
    shown = [
        AddedOut(prompt_id=item.prompt_id, added=item.added, completion_ids=list(item.completion_ids)) for item in made
    ]
    return once.answer(AddedPromptsOut(prompts=shown), 201)


@router.get("/prompts/{prompt_id}")
def read_prompt(prompt_id: UUID, session: SessionDep, caller: ExportCaller) -> PromptOut:
    """Return a prompt."""
    found = work.prompt(session, prompt_id)
    caller.require_project(found["project_id"])
    return PromptOut(**found)


@router.post("/prompts/{prompt_id}/completions", responses=WRITES, status_code=201, response_model=CompletionOut)
def add_completion(
    prompt_id: UUID, sent: CompletionIn, session: SessionDep, caller: ImportCaller, once: OnceDep
) -> Response:
    """Add an answer to a prompt."""
    caller.require_project(work.prompt(session, prompt_id)["project_id"])
    made = added.completion(session, prompt_id, tokens.maker(session, caller), sent.new())
    shown = CompletionOut(**work.completion(session, made))
    return once.answer(shown, 201, Location=f"/api/v1/completions/{made}")


@router.get("/projects/{project_id}/completions")
def list_completions(
    session: SessionDep, project: ExportProject, asked: Annotated[CompletionsQuery, Query()]
) -> Page[CompletionOut]:
    """List the answers to a project's prompts."""
    return page(
        asked,
        CompletionOut,
        lambda part: work.completions(
            session, project.id, part, prompt_id=asked.prompt_id, run_id=asked.run_id, source=asked.source
        ),
        project.id,
    )


@router.get("/completions/{completion_id}")
def read_completion(completion_id: UUID, session: SessionDep, caller: ExportCaller) -> CompletionOut:
    """Return an answer to a prompt."""
    found = work.completion(session, completion_id)
    caller.require_project(found["project_id"])
    return CompletionOut(**found)
