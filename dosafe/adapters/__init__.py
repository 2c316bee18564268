"""Adapter folders: what one is (fingerprint), where it comes from (card), and whether it may be loaded (preflight)."""

from dosafe.adapters.card import CARD, SCHEMA_VERSION, Card, CardBase, Heldout, read_card
from dosafe.adapters.checks import PICKLES, Preflight, base_shapes, preflight
from dosafe.adapters.files import CONFIG, WEIGHTS, effective_config, fingerprint, read_config, read_template
from dosafe.adapters.table import preflight_table
from dosafe.adapters.weights import TensorInfo, read_header

__all__ = [
    "CARD",
    "CONFIG",
    "PICKLES",
    "SCHEMA_VERSION",
    "WEIGHTS",
    "Card",
    "CardBase",
    "Heldout",
    "Preflight",
    "TensorInfo",
    "base_shapes",
    "effective_config",
    "fingerprint",
    "preflight",
    "preflight_table",
    "read_card",
    "read_config",
    "read_header",
    "read_template",
]
