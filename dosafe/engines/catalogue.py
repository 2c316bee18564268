"""The names of lm-eval's own tasks, groups and tags, and what they stand for.

lm-eval reads all of its 14,000 task files to find one (10 s and more). The folders that a name needs are therefore
noted in the cache, once for each version of lm-eval; after that only those are read. More tasks are found in the
folder that ``DOSAFE_TASKS`` names, like those of ``lm_eval --include_path``.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dosafe.errors import ConfigError
from dosafe.paths import cache_dir, write_text

TASKS = "DOSAFE_TASKS"
"""Environment variable: a folder of more tasks in lm-eval's YAML."""
NEAR = 5
"""Names that an error offers."""


def manager(name: str) -> Any:
    """Return a task manager of lm-eval that can load a name, if there is such a name.

    Raises:
        ConfigError: ``DOSAFE_TASKS`` names no folder.
    """
    more = os.environ.get(TASKS) or None
    if more is not None:
        if not Path(more).is_dir():
            raise ConfigError(f"{TASKS} is {more!r}, which is no folder; point it at a folder of tasks, or unset it")
        return _whole(more)
    folders = _noted().get(name)
    found = _part(tuple(folders)) if folders else None
    return found if found is not None and name in found.task_index else _whole(None)


def expand(name: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the single tasks that a name of lm-eval's stands for; no data is read.

    Args:
        name: A task, group or tag.

    Returns:
        The tasks, and by group those whose results are pooled: the group itself, where lm-eval pools its tasks by size.

    Raises:
        ConfigError: There is no such name, or the group asks its tasks in a way of its own.
    """
    index = manager(name).task_index
    if name not in index:
        near = difflib.get_close_matches(name, index, n=NEAR, cutoff=0.6)
        hint = f"near: {', '.join(near)}" if near else "nothing is near; `dosafe lm-eval ls tasks` lists them"
        raise ConfigError(f"lm-eval has no task, group or tag {name!r}; {hint}")
    tasks = list(dict.fromkeys(_members(name, index)))
    return tasks, {name: tasks} if pool_rules(index[name].cfg or {}) else {}


def config(name: str) -> Mapping[str, Any]:
    """Return what a name's file says, its functions by name only; nothing for a tag or where there is no such name."""
    entry = manager(name).task_index.get(name)
    return (entry.cfg if entry else None) or {}


def pool_rules(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
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


# --- which files are read ------------------------------------------------------------------------------------------


def _root() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


@cache
def _part(folders: tuple[str, ...]) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(_root() / folder) for folder in folders], include_defaults=False)


@cache
def _whole(more: str | None) -> Any:
    """Return a manager of all tasks; note where they are."""
    from lm_eval.tasks import TaskManager

    found = TaskManager(include_path=more)
    if more is None:
        with contextlib.suppress(OSError):  # without a cache it works as well
            write_text(_notes(), json.dumps(_folders(found.task_index)))
        _noted.cache_clear()
    return found


def _notes() -> Path:
    return cache_dir() / f"lm-eval-{metadata.version('lm_eval')}-tasks.json"


@cache
def _noted() -> Mapping[str, list[str]]:
    """Return the folders by name, as an earlier run noted them; nothing where there are no readable notes."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_notes().read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _folders(index: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the folders of lm-eval's that hold a name and all that it stands for."""
    root = _root()

    @cache
    def of(name: str) -> frozenset[str]:
        entry = index[name]
        place = Path(entry.yaml_path).relative_to(root).parts[:1] if entry.yaml_path else ()
        children = entry.tags if entry.cfg is None else _listed(entry.cfg)
        return frozenset(place).union(*(of(child) for child in children if child in index and child != name))

    return {name: sorted(of(name)) for name in index}


def _listed(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that a group's file lists, those of groups within it too."""
    listed = config.get("task") if "group" in config else None
    for member in [listed] if isinstance(listed, str) else listed or ():
        if isinstance(member, dict):
            yield from _listed(member)
        yield str(member.get("group") or member.get("task") if isinstance(member, dict) else member)
