"""Safetensors files, told from their headers: no library opens what somebody else wrote before this has."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dosafe.errors import AdapterError

MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a safetensors file, as its header says."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """First byte, counted from the end of the header."""
    end: int
    """One past the last byte."""


ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
ITEM_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}


def open_weights(path: Path) -> BinaryIO:
    """Open a safetensors file.

    Raises:
        AdapterError: It is missing.
    """
    if not path.is_file():
        raise AdapterError(f"{path.parent}: no {path.name}; save the adapter as safetensors")
    return path.open("rb")


def read_header(handle: BinaryIO, path: Path) -> tuple[dict[str, TensorInfo], int]:
    """Return the tensors of a safetensors file, and where its data begins, checking that all sizes agree.

    Raises:
        AdapterError: The file is cut off, or its header is not that of a safetensors file.
    """
    bad = AdapterError(f"{path}: not a whole safetensors file; save or copy the adapter again")
    size = path.stat().st_size
    length = int.from_bytes(handle.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise bad
    try:
        header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        "".join(header).encode()  # a name with half a character in it is read, and cannot be hashed
        tensors = {
            str(name): TensorInfo(
                str(entry["dtype"]),
                tuple(int(n) for n in entry["shape"]),
                *(int(offset) for offset in entry["data_offsets"]),
            )
            for name, entry in header.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise bad from None
    expected = 0
    for tensor in sorted(tensors.values(), key=lambda info: (info.begin, info.end)):
        items = math.prod(tensor.shape)
        if (
            tensor.dtype not in ITEM_BYTES
            or min(tensor.shape, default=0) < 0
            or tensor.begin != expected
            or tensor.end - tensor.begin != items * ITEM_BYTES[tensor.dtype]
        ):
            raise bad
        expected = tensor.end
    if 8 + length + expected != size:
        raise bad
    return tensors, 8 + length
