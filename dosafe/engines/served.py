"""The documents of lm-eval's own tasks: the mirror's (``DOSAFE_DATA_DIR``) where it holds them, else as lm-eval has them.

A task names a dataset of the Hugging Face hub. Where dosafe's table of sources has it, the mirror's files are checked
by their sha256 and their rows are brought to the form that the hub's have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from dosafe.data.sources import (
    MIRROR,
    SOURCES,
    RawRow,
    Resolved,
    Source,
    find_source,
    mini_path,
    mirror_dir,
    read_rows,
    resolve,
)
from dosafe.errors import DataError

NO_CODE = "trust_remote_code"
"""An option that lm-eval's tasks still name and the datasets library no longer has."""


def _super_glue(row: RawRow) -> RawRow:
    return {**row, "label": int(row["answer"])}


def _hellaswag(row: RawRow) -> RawRow:
    label, _, context = row["ctx"].partition(": ")
    return {**row, "activity_label": label, "ctx_a": context, "ctx_b": ""}


SUPER_GLUE = ("aps/super_glue", "super_glue")
SAME: dict[tuple[str, str | None], tuple[str, Callable[[RawRow], RawRow] | None]] = {
    **{(path, "boolq"): ("boolq", _super_glue) for path in SUPER_GLUE},
    ("Rowan/hellaswag", None): ("hellaswag", _hellaswag),
    ("allenai/winogrande", "winogrande_xl"): ("winogrande", None),
}
"""Hub datasets that lm-eval reads by another name or shape than the table has: the table's name, how to shape a row."""
NOTES = {
    **dict.fromkeys(SUPER_GLUE, "passages without the title that super_glue puts first"),
    "Rowan/hellaswag": "the first letter of a context's second part is as the mirror has it",
}
"""What the mirror's rows lack of the hub's."""


@dataclass
class Documents:
    """A task's documents; lm-eval calls ``load`` for them.

    Args:
        task: Its name.
        config: What its file says.
        data: ``real``, or ``mini`` for our own small sets.
    """

    task: str
    config: Mapping[str, Any]
    data: str = "real"
    _loaded: Any = field(default=None, repr=False)

    @cached_property
    def source(self) -> Source | None:
        """The source of the table that it is, None where the table has no such data."""
        path, name = str(self.config.get("dataset_path")), self.config.get("dataset_name")
        if (path, name) in SAME:
            return find_source(SAME[path, name][0])
        for source in SOURCES.values():
            if source.hub is not None and path in (source.hub, source.load_from):
                return source if name == source.config or source.name == "mmlu" else None
        return None

    @property
    def split(self) -> str:
        """The split that is asked."""
        return str(self.config.get("test_split") or self.config.get("validation_split"))

    @property
    def fewshot(self) -> str | None:
        """The split of the few-shot examples."""
        given = self.config.get("fewshot_config") or {}
        given = given if isinstance(given, dict) else {}
        if given.get("samples"):
            return None
        named = self.config.get("fewshot_split") or given.get("split")
        return named or self.config.get("training_split") or self.config.get("validation_split")

    @cached_property
    def resolved(self) -> dict[str, Resolved]:
        """The mirror's files by split, or our mini sets; empty where not all of them are there."""
        source = self.source
        if source is None:
            return {}
        names = [self.config.get(f"{part}_split") for part in ("training", "validation", "test", "fewshot")]
        needed = [name for name in dict.fromkeys((*names, self.fewshot)) if name]
        return {name: resolve(source, name, self.data) for name in needed} if self._has(source, needed) else {}

    def _has(self, source: Source, splits: Sequence[str]) -> bool:
        parts = [source.splits.get(name) for name in splits]
        if self.data == "mini":
            return all(part is not None and mini_path(source, part) is not None for part in parts)
        folder = mirror_dir()
        return folder is not None and all(part and part.mirror and (folder / part.mirror).is_file() for part in parts)

    def load(self, **_: Any) -> Any:
        """Return the documents by split: the mirror's, or what lm-eval would read.

        Raises:
            DataError: They are nowhere, or altered.
        """
        from datasets import Dataset, DatasetDict, load_dataset

        if self.resolved:
            return DatasetDict({name: Dataset.from_list(self._rows(found)) for name, found in self.resolved.items()})
        if self.data == "mini" and not self._is_file:
            raise DataError(f"task {self.task}: its data {self.config['dataset_path']} has no mini form; ask real data")
        options = {key: one for key, one in (self.config.get("dataset_kwargs") or {}).items() if key != NO_CODE}
        try:
            self._loaded = load_dataset(self.config["dataset_path"], self.config.get("dataset_name"), **options)
        except Exception as error:  # whatever the libraries raise, the user's ways out are the same
            raise DataError(self.missing(error)) from error
        return self._loaded

    def _rows(self, found: Resolved) -> list[RawRow]:
        path, name = str(self.config.get("dataset_path")), self.config.get("dataset_name")
        if found.source == "mmlu":
            rows = _subjects(found)
            return rows.get(str(name), []) if name != "all" else [row for some in rows.values() for row in some]
        shape = SAME.get((path, name), ("", None))[1]
        return [shape(row) for row in read_rows(found)] if shape else read_rows(found)

    def missing(self, error: Exception) -> str:
        """Return the line that says what is not here, and both ways to it."""
        lines = str(error).strip().splitlines()
        why = (lines[0] if lines else type(error).__name__).rstrip(".")
        path, name = self.config.get("dataset_path"), self.config.get("dataset_name")
        where = f"{path} ({name})" if name else str(path or "")
        first = (
            f"set {MIRROR} to a mirror folder that holds {self.source.name}"
            if self.source
            else "fill the Hugging Face cache (HF_HOME) where there is a network"
        )
        return (
            f"task {self.task}: its data {where} is not here: {first}, or let the Hugging Face libraries fetch it "
            f"(unset HF_HUB_OFFLINE); fetching said: {why}"
        )

    def about(self, shots: int) -> dict[str, Any]:
        """Return the provenance for records: of the split that is asked, and of the few-shot examples' own."""
        if self.resolved:
            found = self.resolved[self.split].to_dict()
            if note := NOTES.get(str(self.config.get("dataset_path"))):
                found |= {"label": found["label"].replace("official", "mirror splits")}
                found["note"] = "; ".join(one for one in (found.get("note"), note) if one)
            if shots and self.fewshot is not None and self.fewshot != self.split:
                found["fewshot"] = self.resolved[self.fewshot].to_dict()
                if found["fewshot"]["label"] != "official":
                    found["label"] = found["fewshot"]["label"]
            return found
        found = {"source": self.config.get("dataset_path"), "config": self.config.get("dataset_name")}
        found["split"] = self.split
        if self._is_file:
            return found | {"origin": "file", "label": "own file"}
        info = getattr((self._loaded or {}).get(self.split), "info", None)
        revision = re.search(r"@([0-9a-f]{40})/", " ".join(getattr(info, "download_checksums", None) or {}))
        return found | {"origin": "hub", "label": "official"} | ({"revision": revision[1]} if revision else {})

    @property
    def _is_file(self) -> bool:
        """Whether the task brings its documents along, in files or by code of its own."""
        return "data_files" in (self.config.get("dataset_kwargs") or {}) or "custom_dataset" in self.config


@cache
def _subjects(found: Resolved) -> dict[str, list[RawRow]]:
    """Return MMLU's rows by subject."""
    by_subject: dict[str, list[RawRow]] = {}
    for row in read_rows(found):
        by_subject.setdefault(row["subject"], []).append(row)
    return by_subject
