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
from dosafe.engines.base import Answer, Likelihood, Request, Scoring
from dosafe.engines.instances import Instances
from dosafe.errors import ConfigError, DataError, DosafeError, MeasureError, nearest
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
FEW = 100
"""The same for the scores of whole texts, as lm-eval has it: they are slow."""
TEXT_SCORES = ("bleu", "chrf", "chrf++", "ter")
TEMPLATES = {PLAIN: True, "raw": False}
"""Whether lm-eval applies the chat template."""
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
    return bool(_rules(config or {}))


def _rules(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a group says of the metrics that are means weighted by the sizes of its tasks."""
    rules = config.get("aggregate_metric_list") if "group" in config else None
    return [
        rule
        for rule in ([rules] if isinstance(rules, dict) else rules or ())
        if rule.get("weight_by_size", True) and rule.get("aggregation", "mean") == "mean"
    ]


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


SUPER_GLUE = ("aps/super_glue", "super_glue")
SAME: dict[tuple[str, str | None], tuple[str, Callable[[RawRow], RawRow] | None]] = {
    **{(path, "boolq"): ("boolq", _super_glue) for path in SUPER_GLUE},
    ("Rowan/hellaswag", None): ("hellaswag", _hellaswag),
    ("allenai/winogrande", "winogrande_xl"): ("winogrande", None),
}
"""Hub datasets that lm-eval reads by another name or shape than the table has: the table's name, how to shape a row."""


@dataclass
class _Data:
    """Where a task's documents come from; lm-eval calls ``load`` for them."""

    task: str
    config: Mapping[str, Any]
    data: str = "real"

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
            return load_dataset(self.config["dataset_path"], self.config.get("dataset_name"), **options)
        except Exception as error:  # whatever the libraries raise, the user's ways out are the same
            raise DataError(self.missing(error)) from error

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
            if self.config.get("dataset_path") in SUPER_GLUE and found["label"] == "official":
                found |= {"label": "mirror splits", "note": "passages without the titles that super_glue puts first"}
            if shots and self.fewshot is not None and self.fewshot != self.split:
                found["fewshot"] = self.resolved[self.fewshot].to_dict()
                if found["fewshot"]["label"] != "official":
                    found["label"] = found["fewshot"]["label"]
            return found
        is_file = self._is_file
        return {
            "source": str(self.config.get("dataset_path")),
            "config": self.config.get("dataset_name"),
            "split": self.split,
            "origin": "file" if is_file else "hub",
            "label": "own file" if is_file else "official",
        }

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
            Metrics by lm-eval's names (with the filter's, where there is one), and one row a document.

        Raises:
            MeasureError: The task's own code fails.
        """
        try:
            return self._metrics(kept)
        except DosafeError:
            raise
        except Exception as error:  # whatever a task's own code raises
            raise MeasureError(f"lm-eval cannot score task {self.name}: {_first_line(error)}") from error

    def _metrics(self, kept: Sequence[Sequence[Kept]]) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
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
            filters = [ensemble.name for ensemble in self.task._filters]
            names = {_key(metric, name) for metric in self.task.aggregation() for name in filters}
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
                    if (number_of := _number(value)) is not None:
                        rows[number][_key(metric, filtered)] = int(number_of) if _is_bit(value) else number_of
        return values

    def _metric(self, name: str, items: Sequence[Any], unscored: int) -> Metric:
        from lm_eval.api.metrics import mean, stderr_for_metric

        combine = self.task.aggregation().get(name, mean)
        if combine is mean and all(map(_is_bit, items)):
            found = share([bool(item) for item in items])
            return found.model_copy(update={"unscored": unscored})
        try:
            value = _number(combine(items))
        except (OverflowError, ZeroDivisionError):  # a perplexity beyond all numbers
            value = None
        if value is None:
            logger.warning("%s: %s of %d documents is no finite number", self.name, name, len(items))
            return Metric(unit="number", value=None, n=0, unscored=unscored + len(items))
        error = None
        draws = FEW if name in TEXT_SCORES else BOOTSTRAP
        spread = stderr_for_metric(metric=combine, bootstrap_iters=draws) if len(items) > 1 else None
        if spread is not None:
            with _quiet(), _one_process():
                error = _number(spread(items))
        return Metric(
            unit="number",
            value=value,
            n=len(items),
            low=None if error is None else value - Z * error,
            high=None if error is None else value + Z * error,
            unscored=unscored,
        )


def load_harness(names: Sequence[str], template: str, base: Base, suite: Suite) -> dict[str, HarnessTask]:
    """Build lm-eval's tasks: their documents, contexts and tokens.

    Args:
        names: Single tasks.
        template: ``plain``: in the base's chat template, few-shot examples as turns (``--apply_chat_template``);
            ``raw``: without one, as ``lm_eval`` asks by default.
        base: Whose tokenizer and chat template count.
        suite: Its data, and how many documents are asked.

    Raises:
        ConfigError: A task is unknown, or cannot be asked so.
        DataError: A task's data is missing or altered.
    """
    if template not in TEMPLATES:
        raise ConfigError(f"lm-eval's own tasks are not asked in template {template!r}; {nearest(template, TEMPLATES)}")
    asking = Instances(base)
    found = {}
    for name in names:
        with _seeded():
            found[name] = _load(name, TEMPLATES[template], asking, suite)
    return found


def _load(name: str, chat: bool, asking: Instances, suite: Suite) -> HarnessTask:
    tasks = _tasks()
    config = tasks.task_index[name].cfg
    data = _Data(name, config, suite.data)
    own = {"custom_dataset": lambda **_: data.load(), "dataset_kwargs": None}
    own = {} if {"class", "custom_dataset"} & set(config) else own
    try:
        # A group of one: lm-eval's way to load a task with other settings.
        task = tasks.load([{"group": f"dosafe::{name}", "task": [{"task": name, **own}]}])["tasks"][name]
        _check(name, task)
        if task.config.num_fewshot is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
        with _quiet():
            task.build_all_requests(
                limit=suite.limit_of(name),
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                chat_template=asking.chat if chat else None,
            )
        instances = tuple(task.instances)
        asks = tuple(asking.asks(instances))
    except DosafeError:
        raise
    except OSError as error:  # what a task's own code says of missing data
        raise DataError(data.missing(error)) from error
    except Exception as error:  # whatever else it raises
        raise ConfigError(f"lm-eval cannot build task {name}: {_first_line(error)}") from error
    return HarnessTask(name, task, instances, asks, data.about(task.config.num_fewshot or 0), asking)


def _check(name: str, task: Any) -> None:
    """Refuse what is no plain question to a model of text."""
    repeats = task.get_config("repeats") or 1
    for wrong, why in (
        (getattr(task, "UNSAFE_CODE", False), "runs code that the model writes, which dosafe never does"),
        (getattr(task, "MULTIMODAL", False), "shows pictures or sound, and the base reads text only"),
        ("llm_judge" in name, "has another model judge its answers"),
        (repeats != 1, f"asks each question {repeats} times, dosafe asks once"),
    ):
        if wrong:
            raise ConfigError(f"task {name} {why}; ask another task")


def pooled(group: str, parts: Sequence[Result]) -> Result:
    """Return a group's result: lm-eval's means over all documents of its tasks together.

    Args:
        group: Its name, as ``expand`` returns it.
        parts: Its tasks' results in one template.
    """
    index = _tasks().task_index
    config = index[group].cfg
    filters = {one["name"] for part in parts for one in (_config(index, part.task).get("filter_list") or ())}
    metrics = {}
    for rule in _rules(config):
        named = rule.get("filter_list")
        for filtered in [named] if isinstance(named, str) else named or ("none", *sorted(filters - {"none"})):
            key = _key(rule["metric"], filtered)
            found = [part.metrics[key] for part in parts if key in part.metrics]
            if found:
                metrics[key] = _pool(found)
    lengths = [part.max_new_tokens for part in parts if part.max_new_tokens is not None]
    return Result(
        task=group,
        task_version=str((config.get("metadata") or {}).get("version", "")),
        template=parts[0].template,
        kind="lm_eval",
        n=sum(part.n for part in parts),
        max_new_tokens=max(lengths, default=None),
        docs_sha256=content_hash([part.docs_sha256 for part in parts]),
        metrics=metrics,
    )


def _config(index: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    entry = index.get(task)
    return (entry.cfg if entry else None) or {}


def _pool(metrics: Sequence[Metric]) -> Metric:
    scored = [metric for metric in metrics if metric.value is not None]
    n, unscored = sum(metric.n for metric in scored), sum(metric.unscored for metric in metrics)
    if not n:
        return Metric(value=None, n=0, unscored=unscored, unit=metrics[0].unit)
    total = math.fsum((metric.value or 0) * metric.n for metric in scored)
    if all(metric.unit == "share" for metric in scored):
        hits = round(total)
        low, high = wilson(hits, n)
        return Metric(value=hits / n, n=n, low=low, high=high, unscored=unscored)
    from lm_eval.api.metrics import pooled_sample_stderr

    widths = [metric.high - metric.low for metric in scored if metric.high is not None and metric.low is not None]
    half = None
    if len(widths) == len(scored) < n:
        half = Z * float(pooled_sample_stderr([width / (2 * Z) for width in widths], [metric.n for metric in scored]))
    return Metric(
        unit="number",
        value=total / n,
        n=n,
        low=None if half is None else total / n - half,
        high=None if half is None else total / n + half,
        unscored=unscored,
    )


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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


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
