"""The files of an adapter folder, and the fingerprint: what the adapter computes."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from dosafe.adapters.weights import open_weights, pieces, read_header
from dosafe.errors import AdapterError
from dosafe.provenance import canonical_json
from dosafe.untrusted import parse_json, read_bytes
from dosafe.untrusted import printable as printable

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_DEPTH = 20

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
            for piece in pieces(handle, start, tensor):
                digest.update(piece)
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
    try:
        data = read_bytes(path, MAX_CONFIG_BYTES)
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        values = parse_json(data.decode("utf-8"))
    except ValueError as error:
        raise AdapterError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise AdapterError(f"{path}: expected a JSON object, got {type(values).__name__}")
    if _depth(values) > MAX_DEPTH:
        raise AdapterError(f"{path}: nested deeper than {MAX_DEPTH} levels")
    return values


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
            return read_bytes(path, MAX_CONFIG_BYTES).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            raise AdapterError(f"{path}: not UTF-8; save the tokenizer again") from None
        except ValueError as error:
            raise AdapterError(f"{path}: {error}") from None
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            template = read_json(folder / name).get("chat_template")
            if template is not None:
                return template if isinstance(template, str) else canonical_json(template)
    return None
