"""The datasets of lm-eval's own tasks: from the mirror where it has them, else as lm-eval loads them.

lm-eval's tasks name a dataset of the Hugging Face hub. While ``served`` holds, ``datasets.load_dataset`` looks for it
in dosafe's table of sources first and reads the mirror's file, checked by its sha256; the rows are brought to the form
that the hub's dataset has. What the mirror lacks is left to the Hugging Face libraries.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dosafe.data.sources import (
    MIRROR,
    SOURCES,
    RawRow,
    Resolved,
    Source,
    find_split,
    mini_path,
    mirror_dir,
    read_rows,
    resolve,
)
from dosafe.errors import DataError

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

Row = Callable[[RawRow], RawRow | None]
"""Brings a row to the hub's form; None where it is not of the asked configuration."""
Read = Callable[[Source, str], tuple[Resolved, list[RawRow]]]

FILES = ("arrow", "csv", "json", "pandas", "parquet", "text", "xml")
"""What ``load_dataset`` reads from files."""


class Served(dict[str, "datasets.Dataset"]):
    """The splits of one dataset of the hub, read when they are asked for."""

    def __init__(self, source: Source, hub: str, row: Row, read: Read) -> None:
        super().__init__()
        self._source = source
        self._hub = hub
        self._row = row
        self._read = read
        self._resolved: dict[str, Resolved] = {}

    def __missing__(self, split: str) -> datasets.Dataset:
        from datasets import Dataset

        self._resolved[split], rows = self._read(self._source, split)
        mine = [row for row in map(self._row, rows) if row is not None]
        if not mine:
            raise DataError(f"{self._source.name}/{split} has no rows of {self._hub}")
        self[split] = Dataset.from_list(mine)
        return self[split]

    def provenance(self, split: str) -> dict[str, Any]:
        """Return what a split was read from, as ``Resolved.to_dict`` does, with the hub's name of the dataset."""
        _ = self[split]
        found = self._resolved[split].to_dict() | {"hub": self._hub}
        if self._row is _super_glue and found["label"] == "official":
            found |= {"label": "mirror splits", "note": "passages without the title that aps/super_glue puts first"}
        return found


@contextmanager
def served(data: str = "real") -> Iterator[None]:
    """Let ``datasets.load_dataset`` serve the mirror's files; with ``data="mini"``, our own small sets.

    lm-eval has no door for data of one's own but the task's YAML, hence the change to the library, for as long as the
    block lasts.

    Raises:
        DataError: (when a dataset is loaded) It is nowhere to be had, or the mirror's file is altered.
    """
    import datasets

    load = datasets.load_dataset

    @cache  # mmlu's 57 tasks are subjects of one file
    def read(source: Source, split: str) -> tuple[Resolved, list[RawRow]]:
        find_split(source, split)
        if not _has(source, split, data):
            raise DataError(f"{source.name}/{split} is not in {'the mini sets' if data == 'mini' else MIRROR}")
        resolved = resolve(source, split, data)
        return resolved, read_rows(resolved)

    def load_served(path: str, name: str | None = None, *args: Any, **options: Any) -> Any:
        found = _find(path, name)
        hub = f"{path} ({name})" if name else path
        # Who names a revision or a split is not lm-eval, or means the hub's own.
        here = found is not None and not {"revision", "split"} & options.keys()
        if found is not None and here and any(_has(found[0], split, data) for split in found[0].splits):
            return Served(found[0], hub, found[1], read)
        if data == "mini" and not is_local(path):
            raise DataError(f"{hub} has no mini form; ask for data real")
        try:
            return load(path, name, *args, **options)
        except Exception as error:  # whatever the libraries raise, the user's ways out are the same
            raise _missing(path, hub, found[0] if found else None, error) from error

    datasets.load_dataset = load_served
    try:
        yield
    finally:
        datasets.load_dataset = load


def is_local(path: str) -> bool:
    """Say whether ``load_dataset`` takes this for files on disk, not for a dataset of the hub."""
    return path in FILES or Path(path).exists()


def provenance(task: Any, splits: Sequence[str]) -> dict[str, Any]:
    """Return where a task's documents come from.

    Args:
        task: One of lm-eval's, loaded while ``served`` held.
        splits: Those whose documents are asked or shown, the asked one first.

    Returns:
        origin (``mini``, ``mirror``, ``hub``, ``local``: files, or ``task``: made by the task's own code), label, and
        what is known of the source; with few-shot examples of another split, the worse label.
    """
    config, dataset = task.config, getattr(task, "dataset", None)
    path = config.dataset_path or task.DATASET_PATH
    if isinstance(dataset, Served):
        found = [dataset.provenance(split) for split in splits]
        odd = next((one for one in found if one["label"] != "official"), found[0])
        return found[0] | ({"label": odd["label"], "note": odd["note"]} if odd is not found[0] else {})
    if path is None or callable(config.custom_dataset):
        return {"origin": "task", "label": "official", "source": str(config.task)}
    name = config.dataset_name or task.DATASET_NAME
    where = f"{path} ({name})" if name else str(path)
    if is_local(str(path)):
        return {"origin": "local", "label": "official", "source": where}
    info = getattr(dataset[splits[0]], "info", None) if dataset is not None else None
    files = " ".join(getattr(info, "download_checksums", None) or {})
    revision = re.search(r"@([0-9a-f]{40})/", files)
    return {"origin": "hub", "label": "official", "source": where} | ({"revision": revision[1]} if revision else {})


def _has(source: Source, split: str, data: str) -> bool:
    part = source.splits[split]
    if data == "mini":
        return mini_path(source, part) is not None
    folder = mirror_dir()
    return folder is not None and part.mirror is not None and (folder / part.mirror).is_file()


def _find(path: str, name: str | None) -> tuple[Source, Row] | None:
    """Return the source that holds a dataset of the hub, and how its rows become the hub's."""
    if (path, name) == ("aps/super_glue", "boolq"):
        return SOURCES["boolq"], _super_glue
    for source in SOURCES.values():
        if path not in (source.hub, source.load_from):
            continue
        if source.name == "mmlu":
            return source, partial(_of_subject, name)
        if source.name == "hellaswag":
            return source, _hellaswag
        # Winogrande's configurations differ in their training rows alone, and the table says what the mirror has.
        if source.name == "winogrande" or name in (None, source.config):
            return source, dict
    return None


def _of_subject(subject: str | None, row: RawRow) -> RawRow | None:
    return row if subject in (row["subject"], None, "all") else None


def _super_glue(row: RawRow) -> RawRow:
    return {"question": row["question"], "passage": row["passage"], "label": int(row["answer"])}


def _hellaswag(row: RawRow) -> RawRow:
    """Take the activity off the context, where the mirror has it; lm-eval puts it there again."""
    activity, _, context = row["ctx"].partition(": ")
    return row | {"activity_label": activity, "ctx_a": context, "ctx_b": ""}


def _missing(path: str, hub: str, source: Source | None, reason: Exception) -> DataError:
    lines = str(reason).strip().splitlines()
    why = (lines[0] if lines else type(reason).__name__).rstrip(".")
    if is_local(path):
        return DataError(f"the task's {hub} files cannot be loaded: {why}")
    mirror = f"set {MIRROR} to a mirror folder that holds {source.name}" if source else "no mirror of dosafe's has it"
    return DataError(
        f"dataset {hub} is not here: {mirror}, or let the Hugging Face libraries fetch it (unset HF_HUB_OFFLINE); "
        f"fetching said: {why}"
    )
