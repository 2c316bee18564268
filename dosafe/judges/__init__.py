"""Who labels an answer: refusal, partial, compliance, or unscored."""

from dosafe.judges.base import Judge, Verdict, load_judge

__all__ = ["Judge", "Verdict", "load_judge"]
