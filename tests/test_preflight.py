"""What preflight says of an adapter beyond yes and no: the base it was made for, how it can be applied, one table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_adapters import CONFIGURATION, card, refused, tensors, write
from tiny import tiny_base

from dosafe.adapters import CARD, CONFIG, Preflight, fingerprint, preflight, preflight_table
from dosafe.bases import Base, resolve_base
from dosafe.cli.main import main

HEAD, EMBEDDING = "base_model.model.lm_head", "base_model.model.model.embed_tokens"
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return resolve_base(str(tiny_base(tmp_path_factory.mktemp("bases") / "tiny")))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run ``dosafe preflight`` in an empty folder; return exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dosafe", "preflight", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return call


def cells(out: str) -> list[list[str]]:
    """The rows of a printed table; one that is folded goes over several lines."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]


def lora(module: str, out: int, into: int, r: int = 4) -> dict[str, Any]:
    return {f"{module}.lora_A.weight": np.ones((r, into), "f4"), f"{module}.lora_B.weight": np.ones((out, r), "f4")}


# --- the vocabulary


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("saved", [True, False])
def test_an_embedding_of_another_vocabulary_is_refused_with_both_sizes(tmp_path, base, name, saved):
    # The tiny base ties its head to the embedding, so that lm_head is in no file of it.
    stem = {"embed_tokens": EMBEDDING, "lm_head": HEAD}[name]
    weights = {**tensors(), f"{stem}.weight": np.zeros((310, 32), np.float32)}
    folder = write(tmp_path / "a", weights, modules_to_save=[name] if saved else None)
    refused(folder, base, rf"its {name} has a vocabulary of 310 tokens, this base's has 300.*--base")


def test_a_head_of_another_width_is_refused(tmp_path, base):
    weights = {**tensors(), f"{HEAD}.weight": np.zeros((300, 16), np.float32)}
    refused(
        write(tmp_path / "a", weights, modules_to_save=["lm_head"]), base, r"\[300, 16\], this base has \[300, 32\]"
    )


@pytest.mark.parametrize("end", [".weight", ".base_layer.weight"])
def test_a_copy_of_the_bases_embedding_is_refused(tmp_path, base, end):
    weights = {**tensors(), f"{EMBEDDING}{end}": np.zeros((300, 32), np.float32)}
    refused(write(tmp_path / "a", weights), base, "copy of the base's embed_tokens.*save_embedding_layers=False")


# --- the base's revision and architecture


def test_a_config_of_another_revision_warns(tmp_path, base):
    (warning,) = preflight(write(tmp_path / "a", revision="0123456789ab"), base).warnings
    assert "revision 0123456789ab" in warning
    assert base.revision in warning
    assert preflight(write(tmp_path / "b", revision=base.revision), base).warnings == ()
    assert preflight(write(tmp_path / "c", revision=f"{base.revision}{'0' * 28}"), base).warnings == ()
    assert preflight(write(tmp_path / "d", revision=None), base).warnings == ()


def test_a_config_of_another_architecture_warns(tmp_path, base):
    def of(name: str) -> dict[str, Any]:
        return {"auto_mapping": {"base_model_class": name, "parent_library": "transformers.models.x"}}

    (warning,) = preflight(write(tmp_path / "a", **of("MistralForCausalLM")), base).warnings
    assert "MistralForCausalLM" in warning
    assert "LlamaForCausalLM" in warning
    assert preflight(write(tmp_path / "b", **of("LlamaForCausalLM")), base).warnings == ()


def test_which_base_it_was_made_for(tmp_path, base):
    folder = write(tmp_path / "a", base_model_name_or_path="org/tiny")
    assert preflight(folder, base).made_for == "org/tiny"
    (folder / CARD).write_text(card(base))
    assert preflight(folder, base).made_for == f"{base.name}@{base.revision[:8]}"
    assert preflight(write(tmp_path / "b", base_model_name_or_path=None), base).made_for is None


# --- the chat template


def test_an_own_template_is_told_where_it_is_allowed(tmp_path, base):
    folder = write(tmp_path / "a")
    assert preflight(folder, base).template is None
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    facts = preflight(folder, base, allow_template=True)
    assert facts.template == sha256(b"{{ messages }}").hexdigest()[:12]
    (folder / "chat_template.jinja").unlink()
    (folder / CARD).write_text(card(base, chat_template_sha256="0123456789abcdef"))
    assert preflight(folder, base, allow_template=True).template == "0123456789ab"


# --- what vLLM serves


UNSERVED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"use_dora": True}, {}, "DoRA"),
    ({"lora_bias": True}, {f"{LAYER}.lora_B.bias": np.zeros(32, "f4")}, "biases"),
    ({"bias": "lora_only"}, {}, "biases"),
    ({"modules_to_save": ["lm_head"]}, {f"{HEAD}.weight": np.zeros((300, 32), "f4")}, "whole modules (lm_head)"),
    ({"target_modules": ["q_proj", "v_proj", "lm_head"]}, lora(HEAD, 300, 32), "embeddings (lm_head)"),
    (
        {"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
        {
            f"{EMBEDDING}.lora_embedding_A": np.ones((4, 300), "f4"),
            f"{EMBEDDING}.lora_embedding_B": np.ones((32, 4), "f4"),
        },
        "embeddings (embed_tokens)",
    ),
]


@pytest.mark.parametrize(("changes", "weights", "why"), UNSERVED)
def test_why_an_adapter_is_not_served(tmp_path, base, changes, weights, why):
    facts = preflight(write(tmp_path / "a", {**tensors(), **weights}, **changes), base)
    assert not facts.servable
    assert facts.why_not_served is not None
    assert why in facts.why_not_served


SERVED: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {"rank_pattern": {"q_proj": 4}},
    {"alpha_pattern": {"q_proj": 2}},
]


@pytest.mark.parametrize("changes", SERVED)
def test_what_is_served(tmp_path, base, changes):
    facts = preflight(write(tmp_path / "a", **changes), base)
    assert (facts.servable, facts.why_not_served) == (True, None)


@pytest.mark.vllm
@pytest.mark.parametrize(
    "changes", [*((c, True) for c in SERVED), *((c, False) for c, _, w in UNSERVED if "embed" not in w)]
)
def test_vllm_agrees(changes):
    """vLLM's own rules, so that a new version of it that takes more, or less, is noticed."""
    helper = pytest.importorskip("vllm.lora.peft_helper")
    from vllm.config.lora import LoRAConfig

    settings, served = changes
    found = helper.PEFTHelper.from_dict({**CONFIGURATION, **settings})
    limits = LoRAConfig(max_lora_rank=512)
    if served:
        found.validate_legal(limits)
    else:
        with pytest.raises(ValueError, match="support"):
            found.validate_legal(limits)


# --- folders that cannot be named


def test_a_folder_whose_name_is_no_text_is_one_clear_error(tmp_path, base):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ad\xffapter"))
    try:
        write(folder)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    refused(folder, base, "not UTF-8; rename the folder")


def test_a_folder_whose_name_is_no_text_can_be_printed(tmp_path, base):
    """In a process of its own, whose streams are as strict as a user's."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ad\xffapter"))
    try:
        write(folder)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for form in ([], ["--json"]):
        command = [sys.executable, "-m", "dosafe", "preflight", str(folder), "--base", str(base.path), *form]
        done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
        assert done.returncode == 2, done.stderr
        assert done.stderr == b""
        assert "not UTF-8" in " ".join(done.stdout.decode().split())


# --- the table


def shown(good: list[Preflight], skipped: dict[Path, str], width: int = 250) -> str:
    console = Console(width=width)
    with console.capture() as caught:
        console.print(preflight_table(good, skipped))
    return caught.get()


def test_the_table_has_a_row_for_each_adapter(tmp_path, base):
    plain = write(tmp_path / "plain")
    (plain / CARD).write_text(card(base))
    head = {**tensors(), f"{HEAD}.weight": np.zeros((300, 32), np.float32)}
    other = write(tmp_path / "with head", head, modules_to_save=["lm_head"])
    good = [preflight(plain, base), preflight(other, base)]
    bad = tmp_path / "bad"
    first, second, third = cells(shown(good, {bad: f"{bad}: rank is 0; give another"}))
    assert first == [
        "piqa/benign/none",
        fingerprint(plain)[:12],
        "4",
        "q_proj, v_proj",
        "-",
        f"tiny@{base.revision[:8]}",
        "the base's",
        "lora, merged",
        "ok",
    ]
    assert (second[0], second[4], second[5]) == ("with head", "lm_head", "tiny")
    assert second[7] == "merged only: replaces whole modules (lm_head)"
    assert (third[0], third[1], third[-1]) == (str(bad), "-", "rank is 0; give another")


def test_markup_in_names_is_shown_as_it_is(tmp_path, base):
    folder = write(tmp_path / "[bold red]a", base_model_name_or_path="org/[blink]tiny")
    out = shown([preflight(folder, base)], {Path("[link=x]b"): "[dim]c\x1b[31m"})
    for text in ("[bold red]a", "org/[blink]tiny", "[link=x]b", "[dim]c [31m"):
        assert text in out
    assert "\x1b" not in out


# --- the verb


def test_all_good(run, base):
    write(Path("a"))
    write(Path("b"), lora_alpha=16)
    code, out, err = run("a", "b", "--base", base.path)
    assert (code, err) == (0, "")
    assert [(row[0], row[-1]) for row in cells(out)] == [("a", "ok"), ("b", "ok")]


def test_one_refused_is_exit_code_2_and_the_others_are_still_told(run, base):
    write(Path("a"))
    write(Path("b"), r=0)
    code, out, err = run("b", "a", "none", "--base", base.path)
    assert (code, err) == (2, "")
    text = " ".join(out.split())
    assert "from 1 to 512" in text
    assert "no adapter folder none" in text
    assert [row[0] for row in cells(out) if row[-1] == "ok"] == ["a"]


def test_as_json(run, base):
    write(Path("a"), revision="0123456789ab")
    write(Path("b"), r=0)
    code, out, err = run("a", "b", "--base", base.path, "--json")
    good, bad = json.loads(out)
    assert code == 2
    assert (good["folder"], good["ok"], good["rank"], good["target_modules"]) == ("a", True, 4, ["q_proj", "v_proj"])
    assert good["fingerprint"] == fingerprint(Path("a"))
    assert good["why_not_served"] is None
    assert (bad["folder"], bad["ok"]) == ("b", False)
    assert "from 1 to 512" in bad["why"]
    assert good["warnings"][0] in err


def test_allow_template(run, base):
    (write(Path("a")) / "chat_template.jinja").write_text("{{ messages }}")
    code, out, _ = run("a", "--base", base.path)
    assert (code, "--allow-template" in " ".join(out.split())) == (2, True)
    code, out, _ = run("a", "--base", base.path, "--allow-template")
    assert code == 0
    assert "own" in cells(out)[0][6]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [([], "ADAPTER"), (["a"], "--base"), (["a", "--base", "smollm2-135n"], "did you mean 'smollm2-135m'")],
)
def test_bad_input_is_one_line(run, arguments, part):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert part in err


def test_no_model_is_loaded(base, tmp_path):
    script = (
        "import sys; from pathlib import Path; from dosafe.adapters import preflight; from dosafe.bases import Base\n"
        "preflight(Path(sys.argv[1]), Base('tiny', 'tiny', 'rev', Path(sys.argv[2])))\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'vllm') if name in sys.modules])"
    )
    folder = write(tmp_path / "a")
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(base.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert (folder / CONFIG).is_file()
