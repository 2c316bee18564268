"""lm-eval's own tasks for ``dosafe eval``: contexts built and tokenised once, scored by lm-eval's own metrics.

Their data is read from the mirror (``DOSAFE_DATA_DIR``) where that holds it, else as lm-eval reads it. More tasks are
found in the folder that ``DOSAFE_TASKS`` names, like those of ``lm_eval --include_path``.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import json
import logging
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from dosafe.bases import Base
from dosafe.config.suite import Suite
from dosafe.data.sources import MIRROR, SOURCES, RawRow, Resolved, Source, find_source, mirror_dir, read_rows, resolve
from dosafe.engines.base import Answer, Likelihood, Request, Scoring
from dosafe.engines.instances import Instances
from dosafe.errors import ConfigError, DataError, DosafeError
from dosafe.provenance import content_hash
from dosafe.records import Metric, Result
from dosafe.stats import share, wilson
from dosafe.strategies.base import PLAIN

logger = logging.getLogger(__name__)

TASKS = "DOSAFE_TASKS"
"""Environment variable: a folder of more tasks in lm-eval's YAML."""
NEAR = 5
"""Names that an error offers."""
BOOTSTRAP = 1000
"""Resamples for the standard error of what has no closed form; lm-eval's own 100 000 take minutes."""
Z = 1.96
SEED = 1234
"""lm-eval's default seed of few-shot examples."""

NO_CODE = "trust_remote_code"
"""An option that lm-eval's tasks still name and the datasets library no longer has."""

Kept = Answer | Likelihood


# --- names ---------------------------------------------------------------------------------------------------------


@cache
def _manager(folder: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


def _tasks() -> Any:
    """Return lm-eval's manager of tasks, with those of the folder in ``DOSAFE_TASKS``."""
    folder = os.environ.get(TASKS) or None
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"{TASKS} is {folder!r}, which is no folder; point it at a folder of tasks, or unset it")
    return _manager(folder)


def expand(name: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the single tasks that a name of lm-eval stands for.

    Args:
        name: A task, group or tag.

    Returns:
        The tasks, and by group those whose results are pooled: the group itself, where lm-eval pools its tasks by size.

    Raises:
        ConfigError: There is no such name, or the group asks its tasks in a way of its own.
    """
    index = _tasks().task_index
    if name not in index:
        near = difflib.get_close_matches(name, index, n=NEAR, cutoff=0.6)
        hint = f"near: {', '.join(near)}" if near else "nothing is near; lm_eval ls tasks lists them"
        raise ConfigError(f"lm-eval has no task, group or tag {name!r}; {hint}")
    tasks = list(dict.fromkeys(_members(name, index)))
    return tasks, {name: tasks} if _pools(index[name].cfg) else {}


def _pools(config: Mapping[str, Any] | None) -> bool:
    rules = (config or {}).get("aggregate_metric_list") if "group" in (config or {}) else None
    rules = [rules] if isinstance(rules, dict) else rules
    return bool(rules) and all(
        rule.get("weight_by_size", True) and rule.get("aggregation", "mean") == "mean" for rule in rules or ()
    )


def _members(name: str, index: Mapping[str, Any]) -> Iterator[str]:
    entry = index[name]
    config = entry.cfg or {}
    if not config:
        for task in sorted(entry.tags):
            yield from _members(task, index)
    elif "group" in config and "class" not in config:
        yield from _group(name, config, index)
    else:
        yield name


def _group(name: str, config: Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[str]:
    own = sorted(set(config) - {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"})
    listed = config.get("task") or ()
    for member in [listed] if isinstance(listed, str) else listed:
        given = {"task": member} if isinstance(member, str) else dict(member)
        if "group" in given and given["group"] not in index:
            yield from _group(name, given, index)
            continue
        other = [*own, *sorted(set(given) - {"task", "group", "task_alias", "group_alias"})]
        found = str(given.get("group") or given.get("task"))
        if other or found not in index:
            what = f"sets {', '.join(other)} of" if other else "defines"
            raise ConfigError(f"lm-eval's group {name!r} {what} {found!r} by itself; ask its tasks one by one")
        yield from _members(found, index)


# --- data ----------------------------------------------------------------------------------------------------------


def _super_glue(row: RawRow) -> RawRow:
    return {**row, "label": int(row["answer"])}


def _hellaswag(row: RawRow) -> RawRow:
    label, _, context = row["ctx"].partition(": ")
    return {**row, "activity_label": label, "ctx_a": context, "ctx_b": ""}


SAME: dict[tuple[str, str | None], tuple[str, Callable[[RawRow], RawRow] | None]] = {
    ("aps/super_glue", "boolq"): ("boolq", _super_glue),
    ("super_glue", "boolq"): ("boolq", _super_glue),
    ("Rowan/hellaswag", None): ("hellaswag", _hellaswag),
    ("allenai/winogrande", "winogrande_xl"): ("winogrande", None),
}
"""Hub datasets that lm-eval reads by another name or shape than the table has: the table's name, how to shape a row."""


@dataclass
class _Data:
    """Where a task's documents come from; lm-eval calls ``load`` for them."""

    task: str
    config: Mapping[str, Any]

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
        named = self.config.get("fewshot_split") or (given.get("split") if isinstance(given, dict) else None)
        return named or self.config.get("training_split") or self.config.get("validation_split")

    @cached_property
    def resolved(self) -> dict[str, Resolved]:
        """The mirror's files by split; empty where the mirror does not hold all of them."""
        folder, source = mirror_dir(), self.source
        if folder is None or source is None:
            return {}
        names = [self.config.get(f"{part}_split") for part in ("training", "validation", "test", "fewshot")]
        needed = [name for name in dict.fromkeys((*names, self.fewshot)) if name]
        splits = [source.splits.get(name) for name in needed]
        if not all(split and split.mirror and (folder / split.mirror).is_file() for split in splits):
            return {}
        return {name: resolve(source, name) for name in needed}

    def load(self, **_: Any) -> Any:
        """Return the documents by split: the mirror's, or what lm-eval would read.

        Raises:
            DataError: They are nowhere, or altered.
        """
        from datasets import Dataset, DatasetDict, load_dataset

        if self.resolved:
            return DatasetDict({name: Dataset.from_list(self._rows(found)) for name, found in self.resolved.items()})
        options = {key: one for key, one in (self.config.get("dataset_kwargs") or {}).items() if key != NO_CODE}
        try:
            return load_dataset(self.config["dataset_path"], self.config.get("dataset_name"), **options)
        except Exception as error:  # whatever the libraries raise, the user's ways out are the same
            raise DataError(self._missing(error)) from error

    def _rows(self, found: Resolved) -> list[RawRow]:
        path, name = str(self.config.get("dataset_path")), self.config.get("dataset_name")
        if found.source == "mmlu":
            rows = _subjects(found)
            return rows.get(str(name), []) if name != "all" else [row for some in rows.values() for row in some]
        shape = SAME.get((path, name), ("", None))[1]
        return [shape(row) for row in read_rows(found)] if shape else read_rows(found)

    def _missing(self, error: Exception) -> str:
        lines = str(error).strip().splitlines()
        why = (lines[0] if lines else type(error).__name__).rstrip(".")
        path, name = self.config["dataset_path"], self.config.get("dataset_name")
        where = f"{path} ({name})" if name else path
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
            if shots and self.fewshot is not None and self.fewshot != self.split:
                found["fewshot"] = self.resolved[self.fewshot].to_dict()
                if found["fewshot"]["label"] != "official":
                    found["label"] = found["fewshot"]["label"]
            return found
        path = str(self.config.get("dataset_path"))
        is_file = "data_files" in (self.config.get("dataset_kwargs") or {}) or "custom_dataset" in self.config
        return {
            "source": path,
            "config": self.config.get("dataset_name"),
            "split": self.split,
            "origin": "file" if is_file else "hub",
            "label": "own file" if is_file else "official",
        }


@cache
def _subjects(found: Resolved) -> dict[str, list[RawRow]]:
    """Return MMLU's rows by subject."""
    by_subject: dict[str, list[RawRow]] = {}
    for row in read_rows(found):
        by_subject.setdefault(row["subject"], []).append(row)
    return by_subject


# --- tasks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HarnessTask:
    """One of lm-eval's own tasks in a template, ready to be asked: the same for every subject."""

    name: str
    task: Any
    """lm-eval's task: its filters, metrics and aggregations."""
    instances: tuple[Any, ...]
    """lm-eval's requests, without responses."""
    asks: tuple[tuple[Request | Scoring, ...], ...]
    """What the base is asked for each of them."""
    data: dict[str, Any]
    """Where the documents come from."""
    asking: Instances
    """Turns the one into the other."""
    kind: Literal["lm_eval"] = "lm_eval"

    @property
    def version(self) -> str:
        """Of the task's definition."""
        return str(self.task.VERSION)

    @cached_property
    def _docs(self) -> dict[int, Any]:
        return {one.doc_id: one.doc for one in self.instances}

    @property
    def n(self) -> int:
        """Documents."""
        return len(self._docs)

    @cached_property
    def docs_sha256(self) -> str:
        """Of the documents."""
        text = json.dumps(list(self._docs.values()), sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def max_new_tokens(self) -> int | None:
        """Longest answer; None where nothing is generated."""
        found = [one.max_new_tokens for group in self.asks for one in group if isinstance(one, Request)]
        return max(found, default=None)

    def metrics(self, kept: Sequence[Sequence[Kept]]) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
        """Score what one subject answered; a document with a failed answer is in no number.

        Args:
            kept: In the order of ``asks``.

        Returns:
            Metrics by lm-eval's names, and one row a document.
        """
        rows: dict[int, dict[str, Any]] = {number: {"id": str(number)} for number in self._docs}
        for one, group in zip(self.instances, kept, strict=True):
            for failed in (each.failed for each in group if each.failed is not None):
                rows[one.doc_id].setdefault("unscored", failed)
            if isinstance(group[0] if group else None, Answer) and "unscored" not in rows[one.doc_id]:
                text = "\0".join(each.text for each in group if isinstance(each, Answer))
                rows[one.doc_id]["answer_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        good = [
            replace(one, resps=[self.asking.response(one, group)], filtered_resps={})
            for one, group in zip(self.instances, kept, strict=True)
            if "unscored" not in rows[one.doc_id]
        ]
        values = self._values(good, rows) if good else {}
        unscored = sum("unscored" in row for row in rows.values())
        if not values:
            names = {_key(metric, "none") for metric in self.task.aggregation()}
            return {name: Metric(value=None, n=0, unscored=unscored) for name in sorted(names)}, list(rows.values())
        metrics = {_key(*pair): self._metric(pair[0], items, unscored) for pair, items in values.items()}
        return metrics, list(rows.values())

    def _values(self, good: Sequence[Any], rows: Mapping[int, dict[str, Any]]) -> dict[tuple[str, str], list[Any]]:
        """Filter the responses and return each metric's values, one a document."""
        self.task._instances = list(good)  # what apply_filters reads
        self.task.apply_filters()
        by_doc: dict[int, list[Any]] = {}
        for one in good:
            by_doc.setdefault(one.doc_id, []).append(one)
        values: dict[tuple[str, str], list[Any]] = {}
        for filtered in good[0].filtered_resps:
            for number, group in by_doc.items():
                ordered = sorted(group, key=lambda one: one.idx)
                found = self.task.process_results(self._docs[number], [one.filtered_resps[filtered] for one in ordered])
                for metric, value in found.items():
                    values.setdefault((metric, filtered), []).append(value)
                    if _is_bit(value):
                        rows[number][_key(metric, filtered)] = int(value)
        return values

    def _metric(self, name: str, items: Sequence[Any], unscored: int) -> Metric:
        from lm_eval.api.metrics import mean, stderr_for_metric

        combine = self.task.aggregation().get(name, mean)
        if combine is mean and all(map(_is_bit, items)):
            found = share([bool(item) for item in items])
            return found.model_copy(update={"unscored": unscored})
        value = _number(combine(items))
        error = None
        spread = stderr_for_metric(metric=combine, bootstrap_iters=BOOTSTRAP) if len(items) > 1 else None
        if spread is not None and value is not None:
            with _quiet(), _one_process():
                error = _number(spread(items))
        return Metric(
            unit="number",
            value=value,
            n=len(items),
            low=None if value is None or error is None else value - Z * error,
            high=None if value is None or error is None else value + Z * error,
            unscored=unscored,
        )


def load_harness(names: Sequence[str], template: str, base: Base, suite: Suite) -> dict[str, HarnessTask]:
    """Build lm-eval's tasks: their documents, contexts and tokens.

    Args:
        names: Single tasks.
        template: ``plain``: in the base's chat template, few-shot examples as turns (``--apply_chat_template``);
            ``raw``: without one, as ``lm_eval`` asks by default.
        base: Whose tokenizer and chat template count.
        suite: Says how many documents are asked.

    Raises:
        ConfigError: A task is unknown, or cannot be asked so.
        DataError: A task's data is missing or altered.
    """
    asking = Instances(base)
    found = {}
    for name in names:
        with _seeded():
            found[name] = _load(name, template, asking, suite.limit_of(name))
    return found


def _load(name: str, template: str, asking: Instances, limit: int | None) -> HarnessTask:
    tasks = _tasks()
    config = tasks.task_index[name].cfg
    data = _Data(name, config)
    own = {"custom_dataset": lambda **_: data.load(), "dataset_kwargs": None}
    own = {} if {"class", "custom_dataset"} & set(config) else own
    chat = template == PLAIN
    try:
        # A group of one: lm-eval's way to load a task with other settings.
        task = tasks.load([{"group": f"dosafe::{name}", "task": [{"task": name, **own}]}])["tasks"][name]
        _check(task)
        if task.config.num_fewshot is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
        with _quiet():
            task.build_all_requests(
                limit=limit,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                chat_template=asking.chat if chat else None,
            )
        instances = tuple(task.instances)
        asks = tuple(asking.asks(instances))
    except ConfigError as error:
        raise ConfigError(f"task {name}: {error}") from error
    except DosafeError:
        raise
    except Exception as error:  # whatever a task's own code raises
        lines = str(error).strip().splitlines() or [""]
        raise ConfigError(f"lm-eval cannot build task {name}: {type(error).__name__}: {lines[0]}") from error
    return HarnessTask(name, task, instances, asks, data.about(task.config.num_fewshot or 0), asking)


def _check(task: Any) -> None:
    """Refuse what is no plain question of a model of text."""
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError("it runs code that the model writes, which dosafe never does; ask another task")
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError("it shows pictures or sound, and the base reads text only; ask another task")
    if (task.config.repeats or 1) != 1:
        raise ConfigError(f"it asks each question {task.config.repeats} times, dosafe asks once; ask another task")


def pooled(group: str, parts: Sequence[Result]) -> Result:
    """Return a group's result: shares over all documents of its tasks together.

    Args:
        group: Its name.
        parts: Its tasks' results in one template; metrics that are not a share in each of them are left out.
    """
    names = [
        name
        for name in parts[0].metrics
        if all(name in part.metrics and _is_share(part.metrics[name]) for part in parts)
    ]
    lengths = [part.max_new_tokens for part in parts if part.max_new_tokens is not None]
    entry = _tasks().task_index.get(group)
    version = ((entry.cfg or {}).get("metadata") or {}).get("version", "") if entry else ""
    return Result(
        task=group,
        task_version=str(version),
        template=parts[0].template,
        kind="lm_eval",
        n=sum(part.n for part in parts),
        max_new_tokens=max(lengths, default=None),
        docs_sha256=content_hash([part.docs_sha256 for part in parts]),
        metrics={name: _pool([part.metrics[name] for part in parts]) for name in names},
    )


def _is_share(metric: Metric) -> bool:
    return metric.unit == "share"


def _pool(metrics: Sequence[Metric]) -> Metric:
    n = sum(metric.n for metric in metrics)
    unscored = sum(metric.unscored for metric in metrics)
    if not n:
        return Metric(value=None, n=0, unscored=unscored)
    hits = sum(round((metric.value or 0) * metric.n) for metric in metrics)
    low, high = wilson(hits, n)
    return Metric(value=hits / n, n=n, low=low, high=high, unscored=unscored)


def _key(metric: str, filtered: str) -> str:
    return (metric if filtered == "none" else f"{metric}_{filtered}").replace("-", "_")


def _is_bit(value: Any) -> bool:
    try:
        return not isinstance(value, str) and float(value) in (0.0, 1.0)
    except (TypeError, ValueError):
        return False


def _number(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    try:
        return found if math.isfinite(found := float(value)) else None
    except (TypeError, ValueError):
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's progress bars and prints, one a task, from the screen."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _one_process() -> Iterator[None]:
    """Keep lm-eval from forking a process that has a model loaded; the resamples are the same."""
    given = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        os.environ.pop("DISABLE_MULTIPROC")
        if given is not None:
            os.environ["DISABLE_MULTIPROC"] = given


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Seed what a task may draw from while it is built, as lm-eval does; what was there comes back."""
    import numpy as np

    before, numbers = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(SEED)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numbers)
