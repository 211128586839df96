"""The model server: OpenAI's protocol in front of the trainer's own sampler."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build_tokenizer
from starlette.testclient import TestClient

from app.embedded import web
from app.embedded.process import ChildProcess
from app.services.chat import endpoints
from app.settings import get_settings
from trainer import modeling, rollout, streaming
from trainer.config import ConfigError, Sampling
from trainer.data import prompt_ids
from trainer.engine import Engine, Event, Job
from trainer.records import Message
from trainer.serve import Service

ASKED = (Message("user", "say red"),)
SHORT = Sampling(max_new_tokens=24, temperature=0.9)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine("cpu", keep=2)
    yield made
    made.close()


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    application = Service(engine, "secret").application()
    with TestClient(application, headers={"Authorization": "Bearer secret"}) as made:
        yield made


def ask(model: str, **values: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "say red"}], "max_tokens": 24, "stream": True}
    return {**body, **values}


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def text_of(found: list[Any]) -> str:
    return "".join(event["choices"][0]["delta"].get("content", "") for event in found[:-1])


def test_a_streamed_answer_is_the_one_that_the_sampler_draws(tiny_model: str) -> None:
    served = streaming.load(tiny_model, "cpu")
    tokenizer = modeling.load_tokenizer(tiny_model)
    for seed in range(5):
        uniforms = rollout.noise(seed, ["answer"], SHORT.max_new_tokens)
        ends = rollout.end_ids(served.model, tokenizer)
        (expected,) = rollout.sample(served.model, [prompt_ids(tokenizer, ASKED)], SHORT, ends, uniforms)
        pieces = streaming.answer(served, ASKED, SHORT, seed)
        parts, reason = [], None
        while reason is None:
            try:
                parts.append(next(pieces))
            except StopIteration as end:
                reason = end.value
        ids = prompt_ids(tokenizer, ASKED)
        drawn = list(streaming.tokens(served.model, ids, SHORT, served.ends, uniforms))
        assert (drawn, reason) == (expected.ids, expected.finish_reason)
        # Bytes that make no character yet are held back; what is held back at the very end is no character at all.
        assert rollout.text_of(tokenizer, expected).rstrip("\N{REPLACEMENT CHARACTER}").startswith("".join(parts))


def test_an_answer_is_streamed_in_the_protocol_of_openai(client: TestClient, tiny_model: str) -> None:
    answer = client.post("/v1/chat/completions", json=ask(tiny_model, seed=3))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    found = events(answer.text)
    assert found[-1] == "[DONE]"
    assert {event["object"] for event in found[:-1]} == {"chat.completion.chunk"}
    assert found[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    whole = client.post("/v1/chat/completions", json=ask(tiny_model, seed=3, stream=False)).json()
    assert whole["choices"][0]["message"]["content"] == text_of(found)
    assert client.get("/v1/models").json()["data"][0]["id"] == tiny_model


def test_two_answers_at_a_temperature_differ_and_two_greedy_ones_do_not(client: TestClient, tiny_model: str) -> None:
    warm = {client.post("/v1/chat/completions", json=ask(tiny_model, temperature=1.5)).text for _ in range(2)}
    assert len({text_of(events(text)) for text in warm}) == 2
    cold = [client.post("/v1/chat/completions", json=ask(tiny_model, temperature=0)).text for _ in range(2)]
    assert text_of(events(cold[0])) == text_of(events(cold[1]))


@pytest.mark.parametrize(
    "change",
    [
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": ["x"]}]},
        {"temperature": -1},
        {"max_tokens": "many"},
        {"model": 7},
        {"model": "/nowhere/at/all"},
        {"messages": [{"role": "user", "content": "long " * 200}]},  # more tokens than the model has positions
    ],
)
def test_what_cannot_be_answered_is_refused_and_the_next_is_answered(
    client: TestClient, tiny_model: str, change: dict[str, Any]
) -> None:
    refused = client.post("/v1/chat/completions", json={**ask(tiny_model), **change})
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["message"]
    assert client.post("/v1/chat/completions", json=ask(tiny_model)).status_code == 200


def test_nobody_is_answered_without_the_key(client: TestClient, tiny_model: str) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}):
        assert client.post("/v1/chat/completions", json=ask(tiny_model), headers=headers).status_code == 401
        assert client.get("/v1/models", headers=headers).status_code == 401
    assert client.get("/health", headers={"Authorization": ""}).status_code == 200


def make_model(folder: Path, tiny_model: str, seed: int) -> str:
    """Another random model of the same shape."""
    torch.manual_seed(seed)
    model = modeling.load_policy(tiny_model, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


def test_several_models_answer_in_turns_and_few_stay_in_memory(engine: Engine, tiny_model: str, tmp_path: Path) -> None:
    models = [tiny_model, *(make_model(tmp_path / str(number), tiny_model, number) for number in (1, 2))]
    seen: queue.Queue[tuple[int, Event]] = queue.Queue()
    for number, model in enumerate(models):
        job = Job(model, ASKED, Sampling(max_new_tokens=40, temperature=1.0), 5, lambda e, n=number: seen.put((n, e)))
        assert engine.submit(job)
    order, ended = [], 0
    while ended < 3:
        number, event = seen.get(timeout=60)
        assert event.kind in ("text", "end"), event
        order.append(number)
        ended += event.kind == "end"
    together = order[: order.index(2)]
    assert 0 in together[together.index(1) :], "the first two were not made side by side"
    assert engine.loaded[-1] == models[2]
    assert len(engine.loaded) == 2


def test_an_answer_that_nobody_waits_for_any_more_is_dropped(engine: Engine, tiny_model: str) -> None:
    seen: queue.Queue[Event] = queue.Queue()
    dropped = Job(tiny_model, ASKED, Sampling(max_new_tokens=400, temperature=1.0), 1, seen.put)
    assert engine.submit(dropped)
    assert seen.get(timeout=60).kind == "text"
    dropped.cancelled = True
    after: queue.Queue[Event] = queue.Queue()
    assert engine.submit(Job(tiny_model, ASKED, SHORT, 1, after.put))
    while after.get(timeout=60).kind == "text":
        pass
    assert "end" not in {seen.get().kind for _ in range(seen.qsize())}


def test_a_conversation_without_room_for_an_answer_says_so(tiny_model: str) -> None:
    served = streaming.load(tiny_model, "cpu")
    with pytest.raises(ConfigError, match="the model has 512 positions"):
        next(streaming.answer(served, (Message("user", "a" * 600),), SHORT, 0))


def test_the_program_answers_the_apps_own_client_on_the_loopback_address_only(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = web.bind("127.0.0.1", 0)
    bound.listen()
    monkeypatch.setenv("PLACKETT_MODEL_SERVER_URL", f"{web.address_of(bound)}/v1")
    monkeypatch.setenv("PLACKETT_MODEL_SERVER_KEY", "secret")
    get_settings.cache_clear()
    server = ChildProcess(
        "models",
        [sys.executable, "-m", "trainer.serve", "--fd", str(bound.fileno()), "--device", "cpu"],
        log=tmp_path / "log",
        environment={**os.environ},
        descriptors=[bound.fileno()],
    )
    server.start()

    async def ask(model: str) -> list[endpoints.Piece]:
        question = endpoints.Question("local", model, [{"role": "user", "content": "say red"}], 1.0, 16)
        return [piece async for piece in endpoints.ask(question)]

    try:
        pieces = asyncio.run(ask(tiny_model))
        assert pieces[-1].finish_reason in ("stop", "length")
        with pytest.raises(endpoints.EndpointError, match="unsuitable"):
            asyncio.run(ask("/nowhere/at/all"))
        monkeypatch.setenv("PLACKETT_MODEL_SERVER_KEY", "wrong")
        get_settings.cache_clear()
        with pytest.raises(endpoints.EndpointError, match="refused"):
            asyncio.run(ask(tiny_model))
    finally:
        stopped = server.stop()
        bound.close()
    assert stopped, "it ends when it is asked to"


def test_the_server_starts_without_torch() -> None:
    code = "import sys, trainer.serve; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
