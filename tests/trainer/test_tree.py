"""Trees: where every token lies and what it sees, how they are packed, and that the models agree with rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from trainer import layout, modeling, tree
from trainer.device import Device
from trainer.tree import Tree

CPU = torch.device("cpu")
FLOAT = Device(CPU, torch.float32)
FORK = Tree([5, 6], [[7, 1], [8, 9, 1]])
TWIG = Tree([4], [[3]])
FORMS: list[tree.Form] = ["line", "packed", "rows"]


def test_completions_follow_their_prompt_at_the_positions_they_would_have_alone() -> None:
    batch = tree.collate([TWIG, FORK], CPU, "packed")
    # One row of nine tokens instead of two of seven.
    assert batch.input_ids.tolist() == [[5, 6, 7, 1, 8, 9, 1, 4, 3]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0, 1]]
    # The twig was given first: its token comes first, predicted by place 7.
    assert batch.targets.tolist() == [3, 7, 1, 8, 9, 1]
    assert batch.sources.tolist() == [7, 1, 2, 1, 4, 5]
    assert batch.owners.tolist() == [0, 1, 1, 2, 2, 2]
    assert batch.ends.tolist() == [8, 3, 6]
    assert batch.tokens == 9


def test_a_token_sees_its_prompt_and_its_own_completion_and_nothing_else() -> None:
    seen = tree.sees(tree.collate([FORK], CPU, "packed"))[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 1, 1, 1],
    ]
    # Within a window of two positions the last token (position 4) sees position 3 and itself.
    near = tree.sees(tree.collate([FORK], CPU, "packed"), window=2)[0, 0].int().tolist()
    assert near[-1] == [0, 0, 0, 0, 0, 1, 1]
    assert near[4] == [0, 1, 0, 0, 1, 0, 0]


def test_the_mask_of_flex_attention_is_the_same_function_of_places() -> None:
    batch = tree.collate([FORK, TWIG], CPU, "packed")
    rows, places = torch.arange(1)[:, None, None], torch.arange(9)
    for window in (None, 2):
        found = tree.sees_at(
            batch.tree, batch.branch, batch.position_ids, window, rows, rows, places[:, None], places[None]
        )
        assert torch.equal(found, tree.sees(batch, window)[:, 0])


def test_rows_repeat_the_prompt_and_need_no_mask() -> None:
    batch = tree.collate([FORK, TWIG], CPU, "rows")
    assert batch.input_ids.tolist() == [[5, 6, 7, 1, 0], [5, 6, 8, 9, 1], [4, 3, 0, 0, 0]]
    assert batch.sources.tolist() == [1, 2, 6, 7, 8, 10]
    assert not batch.masked


def test_single_answers_of_one_length_need_no_mask_either() -> None:
    assert not tree.collate([TWIG, TWIG], CPU, "packed").masked
    assert tree.collate([TWIG, TWIG, Tree([4, 4], [[3, 3]])], CPU, "packed").masked


def test_rows_are_levelled_where_that_saves_padding() -> None:
    # Three rows of 440 hold 200 tokens of padding, two of 560 hold 0. Where all are full already, rows stay short.
    lengths = [440, 280, 280, 120]
    assert [sum(lengths[index] for index in row) for row in tree.pack(lengths)] == [560, 560]
    assert tree.pack([200, 200, 200]) == [[0], [1], [2]]


sizes = st.tuples(st.integers(1, 20), st.lists(st.integers(1, 30), min_size=1, max_size=5))


@given(st.lists(sizes, min_size=1, max_size=25), st.integers(64, 300), st.sampled_from(FORMS))
def test_forwards_hold_every_tree_once_and_keep_to_the_budget(
    shapes: list[tuple[int, list[int]]], budget: int, form: tree.Form
) -> None:
    trees = [Tree([1] * prompt, [[2] * length for length in lengths]) for prompt, lengths in shapes]
    parts = tree.split(trees, budget, form)
    assert sorted(index for part in parts for index in part) == list(range(len(trees)))
    for part in parts:
        batch = tree.collate([trees[index] for index in part], CPU, form)
        assert batch.input_ids.numel() <= budget or len(part) == 1
        wanted = [token for index in part for completion in trees[index].completions for token in completion]
        assert batch.targets.tolist() == wanted
        assert batch.input_ids.flatten()[batch.ends].tolist() == [2] * len(batch.ends)
        if form == "line":
            assert batch.tokens == batch.input_ids.numel() == sum(trees[index].length for index in part)


# Families. Large random weights, so that attention decides what is predicted, and answers longer than any window.

TEXT = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
LLAMA = {**TEXT, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama and smollm": ("Llama", LLAMA),
    "qwen2": ("Qwen2", LLAMA),
    "qwen2 with a window": ("Qwen2", {**LLAMA, **LAYERS, "use_sliding_window": True}),
    "qwen3": ("Qwen3", LLAMA),
    "mistral": ("Mistral", {**LLAMA, "sliding_window": None}),
    "mistral with a window": ("Mistral", {**LLAMA, "sliding_window": 5}),
    "gemma": ("Gemma", LLAMA),
    "gemma 2": ("Gemma2", {**LLAMA, **LAYERS}),
    "gemma 3": ("Gemma3Text", {**LLAMA, **LAYERS, "rope_parameters": None}),
    "gpt-2": ("GPT2", {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "gpt-neox and pythia": ("GPTNeoX", {**LLAMA, "intermediate_size": 64}),
}


def build(family: str, **more: Any) -> transformers.PreTrainedModel:
    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**settings, **more)
    model = transformers.AutoModelForCausalLM.from_config(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    return model.eval()


def some_trees() -> list[Tree]:
    ids = torch.randint(96, (110,), generator=torch.Generator().manual_seed(3)).tolist()
    return [
        Tree(ids[:12], [ids[12:20], ids[20:33], ids[33:39]]),
        Tree(ids[40:47], [ids[47:61], ids[61:64]]),
        Tree(ids[70:73], [ids[73:80]]),
    ]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_the_same_of_trees_as_of_each_answer_alone(
    family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build(family)
    asked = model.config._attn_implementation
    packed, line = (tree.collate(some_trees(), CPU, form) for form in ("packed", "line"))
    assert packed.masked
    assert len(packed.input_ids) < 3  # trees share a row
    together = modeling.completion_logps(model, packed)
    expected = []
    for prompt, completions, _ in some_trees():
        for completion in completions:
            logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].float()
            logps = logits.log_softmax(dim=1)[len(prompt) - 1 : -1]
            expected.append(logps.gather(1, torch.tensor(completion)[:, None]).squeeze(1))
    torch.testing.assert_close(together, torch.cat(expected), rtol=0, atol=1e-4)
    # Scores that are capped have no kernel but the eager way, which needs a mask.
    assert modeling.choose_layout(model, 256, FLOAT).form == ("packed" if asked == "eager" else "line")
    assert capsys.readouterr().err == ""
    torch.testing.assert_close(modeling.completion_logps(model, line), torch.cat(expected), rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_comparison_of_trees_and_rows_would_see_a_wrong_mask() -> None:
    model = build("llama and smollm")
    batch = tree.collate(some_trees(), CPU, "packed")
    right = modeling.completion_logps(model, batch)
    for wrong in (
        batch._replace(branch=torch.zeros_like(batch.branch)),
        batch._replace(position_ids=torch.arange(batch.input_ids.shape[1]).expand_as(batch.position_ids)),
        batch._replace(tree=batch.tree.clamp(max=0)),
    ):
        assert (modeling.completion_logps(model, wrong) - right).abs().max() > 0.05


@pytest.mark.parametrize("family", ["llama and smollm", "gemma 3", "gpt-2"])
def test_trees_in_a_line_have_the_gradients_of_trees_under_a_mask(family: str) -> None:
    found = []
    for form in ("packed", "line"):
        model = build(family)
        if form == "line":
            assert modeling.choose_layout(model, 256, FLOAT).form == "line"
        modeling.completion_logps(model, tree.collate(some_trees(), CPU, form)).sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_model_that_was_trained_on_lines_is_saved_as_any_other(tiny_model: str, tmp_path: Path) -> None:
    model = modeling.load_policy(tiny_model, torch.float32, CPU)
    assert modeling.choose_layout(model, 256, FLOAT).form == "line"
    model.save_pretrained(tmp_path)
    assert "branches" not in (tmp_path / "config.json").read_text()
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])  # the second has padding before it
    again = modeling.load_policy(str(tmp_path), torch.float32, CPU)
    settings = {"attention_mask": (ids > 0).long(), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **settings), again.generate(ids, **settings))


def test_a_family_that_cannot_take_trees_gets_rows_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    # BLOOM's positions are a bias that it makes of a mask of its own.
    config = transformers.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4)
    torch.manual_seed(0)
    model = transformers.BloomForCausalLM(config).eval()
    assert not modeling.choose_layout(model, 256, FLOAT).shared
    error = capsys.readouterr().err
    assert "bloom cannot take several answers behind one prompt" in error
    assert error.count("\n") == 1


def test_a_model_that_sees_its_batch_is_refused(tiny_model: str) -> None:
    model = modeling.load_policy(tiny_model, torch.float32, CPU)

    def smear(_module: Any, _arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output + output.mean(dim=(0, 1))  # every token of the batch leaks into every other

    with_leak = model.base_model.layers[0].register_forward_hook(smear)
    with pytest.raises(layout.ConfigError, match="than for the same answer alone"):
        modeling.choose_layout(model, 256, FLOAT)
    with_leak.remove()
    assert modeling.choose_layout(model, 256, FLOAT).shared


@pytest.mark.parametrize("form", ["packed", "rows"])
def test_what_stands_in_padded_positions_changes_no_gradient(tiny_model: str, form: tree.Form) -> None:
    found = []
    for pad_id in (0, 77):
        model = modeling.load_policy(tiny_model, torch.float32, CPU)
        batch = tree.collate(some_trees(), CPU, form, pad_id=pad_id)
        modeling.completion_logps(model, batch).sum().backward()
        # A padded token's own embedding gets no gradient from anything that counts.
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex_attention has no backward pass on the CPU; needs a GPU")
def test_flex_attention_says_the_same_as_the_boolean_mask() -> None:
    device = torch.device("cuda")
    batch = tree.collate(some_trees(), device, "packed")
    model = build("qwen2 with a window").to(device)
    plain = modeling.completion_logps(model, batch)
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(modeling.completion_logps(model, batch), plain, rtol=0, atol=1e-3)


# Memory


def test_running_out_of_memory_halves_the_budget_and_repeats_the_same_step(
    tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def gradients(limit: int) -> tuple[list[torch.Tensor], int]:
        """Take one step on a device that holds `limit` tokens."""
        model = modeling.load_policy(tiny_model, torch.float32, CPU)
        way = layout.Layout("packed", 256, FLOAT)

        def accumulate() -> float:
            loss = 0.0
            for _, batch in way.batches(some_trees() * 2):
                part = -modeling.completion_logps(model, batch).sum() / 100
                part.backward()  # the gradients of a failed attempt must not stay
                loss += part.item()
                if batch.input_ids.numel() > limit:
                    raise torch.OutOfMemoryError("injected")
            return loss

        way.repeat(accumulate, torch.optim.SGD(model.parameters()))
        return [parameter.grad for parameter in model.parameters()], way.tokens

    (whole, budget), (parts, halved) = gradients(10_000), gradients(100)
    assert (budget, halved) == (256, 64)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert "repeated with 128 tokens a forward" in capsys.readouterr().err


def test_the_cpu_s_memory_running_out_is_known_among_other_errors() -> None:
    way, attempts = layout.Layout("packed", 256, FLOAT), iter([1 << 60, 1])
    way.repeat(lambda: torch.empty(next(attempts)))
    assert way.tokens == 128
    with pytest.raises(RuntimeError, match="must match"):
        way.repeat(lambda: torch.zeros(2) + torch.zeros(3))
    assert way.tokens == 128


def test_a_tree_that_does_not_fit_at_all_is_said_in_a_sentence() -> None:
    way = layout.Layout("packed", 256, FLOAT)

    def accumulate() -> float:
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(layout.ConfigError, match="lower max_length"):
        way.repeat(accumulate)
    assert way.tokens == layout.LEAST_TOKENS


def test_a_resumed_run_keeps_the_budget_that_memory_left_it(tmp_path: Path) -> None:
    before, after = layout.Layout("packed", 256, FLOAT), layout.Layout("packed", 256, FLOAT)
    attempts = iter([torch.OutOfMemoryError("injected"), None])

    def attempt() -> None:
        if (error := next(attempts)) is not None:
            raise error

    before.repeat(attempt)
    after.resume(json.loads(json.dumps(before.counters())), tmp_path)
    assert before.tokens == after.tokens == 128
