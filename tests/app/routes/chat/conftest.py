"""Fixtures of the pages of live chat: a stand-in endpoint, and a project whose models stand there."""

from __future__ import annotations

from collections.abc import Iterator

import chat_world
import endpoint
import pytest
from labeling_world import World, make_world


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[endpoint.Endpoint]:
    """The endpoint that the settings call `lab`."""
    with endpoint.running() as running:
        chat_world.allow(monkeypatch, running.url)
        yield running


@pytest.fixture
def world(database: str, lab: endpoint.Endpoint) -> World:
    """A project with nothing to do, and no chat models yet."""
    return make_world(number_of_prompts=0)
