"""Safetensors files, told from their headers: no library opens what somebody else wrote before this has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dosafe.errors import AdapterError
from dosafe.untrusted import parse_json

MAX_HEADER_BYTES = 16 << 20
"""Enough for a hundred thousand tensors; a million would take gigabytes to read."""
MAX_DIMENSIONS = 8
PIECE = 16 << 20
"""Bytes of a tensor that are in memory at a time; a multiple of every item's size."""


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
        AdapterError: The file is cut off, or its header is too large or not that of a safetensors file.
    """
    bad = AdapterError(f"{path}: not a whole safetensors file; save or copy the adapter again")
    size = path.stat().st_size
    length = int.from_bytes(handle.read(8), "little")
    if size < 8 or length > size - 8:
        raise bad
    if length > MAX_HEADER_BYTES:
        raise AdapterError(f"{path}: a header of {length >> 20} MiB, at most {MAX_HEADER_BYTES >> 20} are read")
    text = handle.read(length)
    if not text.startswith(b"{"):
        raise bad
    try:
        header = parse_json(text.decode("utf-8"))
        if not all(isinstance(text, str) for text in header.pop("__metadata__", {}).values()):
            raise bad
        tensors = {name: _tensor(entry) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise bad from None
    expected = 0
    for tensor in sorted(tensors.values(), key=lambda info: (info.begin, info.end)):
        items = math.prod(tensor.shape)
        if (
            tensor.dtype not in ITEM_BYTES
            or tensor.begin != expected
            or tensor.end - tensor.begin != items * ITEM_BYTES[tensor.dtype]
        ):
            raise bad
        expected = tensor.end
    if 8 + length + expected != size:
        raise bad
    return tensors, 8 + length


def _tensor(entry: Any) -> TensorInfo:
    """Return what a header says of a tensor, where it is of the types that the format has.

    Raises:
        ValueError: It is not.
    """
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, begin, end]
    if (
        not isinstance(dtype, str)
        or not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(number) is int and number >= 0 for number in numbers)
    ):
        raise ValueError("not as the format has it")
    return TensorInfo(dtype, tuple(shape), begin, end)


def pieces(handle: BinaryIO, start: int, tensor: TensorInfo) -> Iterator[bytes]:
    """Yield a tensor's bytes in pieces, so that a large one takes no more memory than a small one.

    Args:
        handle: Of the safetensors file.
        start: Where its data begins.
        tensor: Which.
    """
    handle.seek(start + tensor.begin)
    left = tensor.end - tensor.begin
    while left and (piece := handle.read(min(PIECE, left))):
        left -= len(piece)
        yield piece
