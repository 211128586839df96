"""A tiny real model, a project to train it in, and short leases, so that a lost worker is noticed in seconds."""

from __future__ import annotations

import pytest
from run_builders import fill_project, freeze, make_model, make_project, make_user
from supervision import World

from app.db import transaction
from app.settings import get_settings

SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>"]
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random Llama of one layer with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_policy")
    vocabulary = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    bytes_.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_, pad_token="<pad>", eos_token="<end>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch, _own_settings: None) -> None:
    for name, value in {
        "RUN_LEASE_SECONDS": "8",
        "RUN_HEARTBEAT_SECONDS": "0.5",
        "RUN_RETRY_SECONDS": "0",
        "CANCEL_GRACE_SECONDS": "20",
        "TRAINER_DEVICE": "cpu",
    }.items():
        monkeypatch.setenv(f"PLACKETT_{name}", value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    get_settings.cache_clear()


@pytest.fixture
def world(database: str, redis_url: str, tiny_policy: str) -> World:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        model = make_model(session, project, admin, tiny_policy)
        fill_project(session, project, [admin], [f"Is it {n}?" for n in range(10)])
    with transaction() as session:
        return World(project, admin, model, freeze(session, project, admin))
