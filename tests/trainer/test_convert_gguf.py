"""The GGUF converter, run as a program on a GGUF file of a tiny random Llama written here."""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from trainer.convert_gguf import main
from trainer.manifest import file_sha256
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE

HIDDEN, VOCAB, LAYERS, HEADS, FEED = 64, 320, 2, 4, 128


def write_tiny_llama(path: Path) -> None:
    """Write a two-layer Llama with a byte-level vocabulary, as llama.cpp spells it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    printable = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    shifted = [chr(256 + number) for number in range(256 - len(printable))]
    merges = [f"{letter} {letter}" for letter in "abcdefghijklmnop"]
    words = ["<s>", "</s>", *printable, *shifted, *(pair.replace(" ", "") for pair in merges)]
    words += [f"<unused{number}>" for number in range(VOCAB - len(words))]
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * VOCAB)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    draw = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, draw.standard_normal(shape).astype(np.float32) / 8)

    tensor("token_embd.weight", VOCAB, HIDDEN)
    tensor("output_norm.weight", HIDDEN)
    tensor("output.weight", VOCAB, HIDDEN)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{name}.weight", HIDDEN, HIDDEN)
        tensor(f"blk.{layer}.ffn_gate.weight", FEED, HIDDEN)
        tensor(f"blk.{layer}.ffn_up.weight", FEED, HIDDEN)
        tensor(f"blk.{layer}.ffn_down.weight", HIDDEN, FEED)
        tensor(f"blk.{layer}.attn_norm.weight", HIDDEN)
        tensor(f"blk.{layer}.ffn_norm.weight", HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(source: Path, destination: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer.convert_gguf", str(source), str(destination)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_conversion_gives_a_folder_that_loads_in_bfloat16_with_its_chat_template(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, destination = tmp_path / "tiny.gguf", tmp_path / "models" / "tiny"
    write_tiny_llama(source)
    done = convert(source, destination)
    assert done.returncode == EXIT_DONE, done.stderr
    assert [path.name for path in destination.parent.iterdir()] == ["tiny"], "nothing half-written stays beside it"

    manifest = json.loads((destination / "manifest.json").read_text())
    assert manifest["source"] == {"name": "tiny.gguf", "sha256": file_sha256(source)}
    assert manifest["files"]["model.safetensors"] == file_sha256(destination / "model.safetensors")

    model = AutoModelForCausalLM.from_pretrained(destination)
    assert model.dtype == torch.bfloat16
    norm = next(item for item in gguf.GGUFReader(source).tensors if item.name == "output_norm.weight").data
    torch.testing.assert_close(model.model.norm.weight, torch.tensor(norm).to(torch.bfloat16), rtol=0, atol=0)
    tokenizer = AutoTokenizer.from_pretrained(destination)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "aa"}], tokenize=False) == "aa"


def test_a_converted_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "manifest.json").write_text("{}")
    assert main([str(tmp_path / "gone.gguf"), str(tmp_path / "done")]) == EXIT_DONE
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "does not exist"), (b"PK\x03\x04 something else", "is not a GGUF file")]
)
def test_a_source_that_is_no_gguf_file_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "model.gguf"
    if content is not None:
        source.write_bytes(content)
    assert main([str(source), str(tmp_path / "out")]) == EXIT_BAD_INPUT
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_destination_with_other_files_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main([str(tmp_path / "model.gguf"), str(tmp_path / "mine")]) == EXIT_BAD_INPUT
    assert "move it away first" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
