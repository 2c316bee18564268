"""A policy: what a candidate may lose against its baseline, and how surely that must be known."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dosafe.config.load import read_yaml, shipped, validate
from dosafe.config.recipe import Frozen

JUDGE = "{judge}"
"""Stands for each judge in a metric's name."""
LEAST_MARGIN = 1e-4
"""A hundredth of a point; to show less takes more prompts than there are."""


class Rule(Frozen):
    """One number of the records, on one or more tasks, and its margin."""

    metric: str = Field(min_length=1)
    """Name in the record, such as ``accuracy``; ``{judge}`` in it stands for each judge, as in ``asr_{judge}``."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Names; or patterns such as ``*_chat``, which stand for those of the baseline's tasks that match."""
    margin: float = Field(ge=LEAST_MARGIN, lt=1)
    """The change for the worse that is still tolerated, as a share: 0.05 is five points."""
    worse: Literal["higher", "lower"] = "higher"
    """Which way is worse."""


class Policy(Frozen):
    """What ``dosafe gate`` checks."""

    name: str
    """The policy's name, in what the gate writes."""
    version: int = Field(ge=1)
    """Raised whenever an outcome could change."""
    alpha: float = Field(default=0.05, ge=1e-6, lt=0.5)
    """Chance of a false ``regressed`` anywhere, and of passing a candidate that is worse by a margin; each at most."""
    power: float = Field(default=0.8, gt=0, le=0.999999)
    """Chance with which the n that ``cannot tell`` asks for would let an equal candidate pass."""
    judges: tuple[str, ...] = ()
    """Judges whose numbers are checked; none: all of the baseline's."""
    templates: tuple[str, ...] = Field(default=("plain", "trained"), min_length=1)
    """Templates that are checked; ``trained`` stands for the one that the candidate was trained in."""
    max_unscored: float = Field(default=0.02, ge=0, le=1)
    """Share of prompts without a verdict on either side up to which a number is taken as measured."""
    max_degenerate: float = Field(default=0.3, ge=0, le=1)
    """Share of degenerate answers, on either side, up to which a judge's verdicts are taken as measured."""
    cannot_tell: Literal[0, 1, 3] = 3
    """The exit code where nothing regressed, but a check could not tell."""
    checks: tuple[Rule, ...] = Field(min_length=1)
    """Where two name the same number, the first holds."""


def load_policy(name: str) -> Policy:
    """Return a policy by the name of one that ships with dosafe, or from a YAML file.

    Raises:
        ConfigError: There is no such policy or file, or it is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return validate(Policy, read_yaml(Path(name)), name)
    return validate(Policy, shipped("policy", name, ", or a .yaml file"), f"policy {name}")
