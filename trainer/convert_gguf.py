"""Turn a quantised GGUF file into an ordinary model folder (bf16 safetensors, tokenizer, chat template), once.

    python -m trainer.convert_gguf SOURCE.gguf DESTINATION

The folder is written aside and renamed, so it is complete or absent; `manifest.json` holds the hash of each file and of
the source. An existing destination is left alone. The weights are the quantised ones, written out: no precision is
regained. Exit codes: 0 done, 2 the source or the destination is not usable.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from trainer.manifest import file_sha256
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE

MANIFEST = "manifest.json"
SCHEMA = 1


class ConversionError(ValueError):
    """The conversion cannot start; `str(error)` is a sentence that names the remedy."""


def convert(source: Path, destination: Path) -> Path:
    """Write `source` as a model folder at `destination` and return it; do nothing when it is there already."""
    if (destination / MANIFEST).is_file():
        return destination
    if destination.exists():
        raise ConversionError(f"{destination} exists but is no converted model; move it away first.")
    if not source.is_file():
        raise ConversionError(f"{source} does not exist; SOURCE must be a GGUF file.")
    with source.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ConversionError(f"{source} is not a GGUF file.")

    aside = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write_model(source, aside)
        manifest = {
            "schema": SCHEMA,
            "source": {"name": source.name, "sha256": file_sha256(source)},
            "files": {path.name: file_sha256(path) for path in sorted(aside.iterdir())},
        }
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        aside.rename(destination)
    except OSError:
        if not (destination / MANIFEST).is_file():  # else another process finished the same conversion first
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return destination


def _write_model(source: Path, folder: Path) -> None:
    import torch  # heavy, and not needed to refuse a bad source
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    _forget_quantisation(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _forget_quantisation(model: Any) -> None:
    """Drop the marks of the GGUF loader: the weights are plain tensors, yet `save_pretrained` refuses over them."""
    model.hf_quantizer = None
    for holder, name in (
        (model.config, "quantization_config"),
        (model, "is_quantized"),
        (model, "quantization_method"),
    ):
        if hasattr(holder, name):
            delattr(holder, name)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.convert_gguf", description="GGUF file to model folder")
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    options = parser.parse_args(arguments)
    try:
        folder = convert(options.source, options.destination)
    except ConversionError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    print(folder)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
