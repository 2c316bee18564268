"""The files of an adapter folder, and the fingerprint: what the adapter computes."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from dosafe.adapters.weights import open_weights, read_header
from dosafe.errors import AdapterError
from dosafe.provenance import canonical_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_SHOWN = 200

EFFECTIVE_FIELDS = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
)
"""What in adapter_config.json changes the function that the adapter computes."""


def fingerprint(folder: Path) -> str:
    """Return the sha256 (hex) of what the adapter computes: its effective config and its tensors.

    The order of tensors and of keys in the files, and metadata, do not matter: saving an adapter again keeps it.

    Raises:
        AdapterError: The files are missing or cannot be read.
    """
    config = effective_config(read_config(folder))
    digest = sha256(canonical_json(config).encode())
    path = folder / WEIGHTS
    with open_weights(path) as handle:
        tensors, start = read_header(handle, path)
        for name, tensor in sorted(tensors.items()):
            digest.update(canonical_json([name, tensor.dtype, list(tensor.shape)]).encode())
            handle.seek(start + tensor.begin)
            digest.update(handle.read(tensor.end - tensor.begin))
    return digest.hexdigest()


def effective_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an adapter_config.json that change the function, those that are unset left out."""
    found = {key: values[key] for key in EFFECTIVE_FIELDS if values.get(key) not in (None, False, [], {})}
    for key in ("target_modules", "modules_to_save", "exclude_modules", "layers_to_transform"):
        if isinstance(found.get(key), list):
            found[key] = sorted(found[key], key=str)
    if isinstance(found.get("lora_alpha"), float) and found["lora_alpha"].is_integer():
        found["lora_alpha"] = int(found["lora_alpha"])
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json.

    Raises:
        AdapterError: It is missing, too large, nested too deeply, or no JSON object.
    """
    if not folder.is_dir():
        raise AdapterError(f"no adapter folder {folder}")
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(f"{folder}: no {CONFIG}; an adapter folder of PEFT is needed")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of sane size and depth.

    Raises:
        AdapterError: It is not one.
    """
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise AdapterError(f"{path}: {size} bytes, at most {MAX_CONFIG_BYTES} are read")
    try:
        values = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_constant)
        canonical_json(values).encode()  # 1e999 is read as infinity, and "\\ud800" as half a character
    except (ValueError, RecursionError):
        raise AdapterError(f"{path}: not valid JSON") from None
    if not isinstance(values, dict):
        raise AdapterError(f"{path}: expected a JSON object, got {type(values).__name__}")
    if _depth(values) > MAX_DEPTH:
        raise AdapterError(f"{path}: nested deeper than {MAX_DEPTH} levels")
    return values


def printable(text: str) -> str:
    """Return text from a stranger's file for one line on a terminal: no control characters, not too long."""
    text = "".join(mark if mark.isprintable() else " " for mark in text)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _depth(value: Any) -> int:
    deepest, pending = 0, [(value, 1)]
    while pending:
        item, depth = pending.pop()
        deepest = max(deepest, depth)
        if isinstance(item, dict):
            pending += [(child, depth + 1) for child in item.values()]
        elif isinstance(item, list):
            pending += [(child, depth + 1) for child in item]
    return deepest


def read_template(folder: Path) -> str | None:
    """Return the chat template in a folder of transformers, None where there is none.

    Raises:
        AdapterError: The file that holds it cannot be read.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise AdapterError(f"{path}: not UTF-8; save the tokenizer again") from None
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            template = read_json(folder / name).get("chat_template")
            if template is not None:
                return template if isinstance(template, str) else canonical_json(template)
    return None
