"""PEFT's folders both ways: the same logits there as here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from preface.backbones.base import Backbone
from preface.backbones.families import FAMILIES
from preface.errors import UserError
from preface.exchange.exporting import export_prompt
from preface.exchange.importing import import_prompt
from preface.exchange.peft import CONFIG, TENSORS
from preface.methods import METHODS, Method, PrefixTuning, PromptTuning
from preface.methods.multitask_prompt_tuning import SharedPrompts
from preface.prompts import Prompts
from preface.records.card import SavedPrompt, folder_of_task, load_prompt, save_prompt
from preface.tasks import load_task
from tests.backbones.test_against_peft import model as t5_model
from tests.backbones.test_causal import pair
from tests.exchange.conftest import plain_of
from tests.records.making import card_of
from tests.serving.making import put, put_ensemble

TEXT, END = [31, 32, 33, 34, 35], [0, 41]
"""What is read, and what the answer begins with."""
OF_EMBEDDINGS = ("prompt-tuning", "p-tuning", "residual-prompts", "decomposed-prompts", "low-dimensional-prompts")
TASKS = ("film", "trec", "sst2")


@torch.no_grad()
def ours(backbone: Backbone, prompts: Prompts) -> Tensor:
    """`[S, vocabulary]`, after each piece of `END`."""
    context = backbone.read(*backbone.pad([TEXT]), prompts)
    return backbone.logits(context, torch.tensor([END]), prompts)[0]


@torch.no_grad()
def theirs(backbone: Backbone, wrapped: Any, **more: Any) -> Tensor:
    wrapped.eval()
    if "encoder" not in backbone.sites:
        ids = torch.tensor([[*TEXT, *END]])
        return wrapped(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0, -len(END) :]
    ids = torch.tensor([TEXT])
    # of labels the model makes what its decoder reads, which multitask prompts of PEFT leave no other way for
    labels = torch.tensor([[*END[1:], 7]])
    return wrapped(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, **more).logits[0]


def assert_same(mine: Tensor, other: Tensor, backbone: Backbone) -> None:
    torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-4)
    assert (mine - ours(backbone, Prompts.bare())).abs().max() > 0.1  # the prompt counts


def loaded_by_peft(plain: Any, folder: Path) -> Any:
    return peft.PeftModel.from_pretrained(plain, folder)


def random(wrapped: Any) -> Any:
    torch.manual_seed(5)
    for parameter in wrapped.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter)
    return wrapped


def imported(wrapped: Any, backbone: Backbone, tmp_path: Path, task: str = "film", **options: Any) -> SavedPrompt:
    wrapped.save_pretrained(tmp_path / "theirs")
    return import_prompt(tmp_path / "theirs", task, tmp_path / "ours", backbone=backbone, **options)


# written


@pytest.mark.parametrize("name", OF_EMBEDDINGS)
def test_input_embeddings_are_peft_s_prompt_tuning(name: str, backbone: Backbone, plain: Any, tmp_path: Path) -> None:
    folder = put(tmp_path / "p", backbone, METHODS[name](length=4, init="random"))
    path = export_prompt(folder, "peft", backbone=backbone)
    assert path == folder / "peft"
    wrapped = loaded_by_peft(plain, path)
    assert wrapped.peft_config["default"].peft_type == "PROMPT_TUNING"
    assert_same(ours(backbone, load_prompt(folder).prompts), theirs(backbone, wrapped), backbone)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_prefix_that_the_text_sees_is_peft_s_on_every_decoder_only_family(kind: str, tmp_path: Path) -> None:
    backbone, plain = pair(kind)
    if kind in ("gpt2", "opt", "gpt_neox"):  # real ones do not say it, and PEFT believes it
        del plain.config.num_key_value_heads
    folder = put(tmp_path / "p", backbone, PrefixTuning(length=5, sites=("input",), init="random"))
    path = export_prompt(folder, "peft", tmp_path / "theirs", backbone=backbone)
    wrapped = loaded_by_peft(plain, path)
    mine = load_prompt(folder).prompts
    assert_same(ours(backbone, mine), theirs(backbone, wrapped), backbone)
    back = imported(wrapped, backbone, tmp_path / "again").prompts
    torch.testing.assert_close(back.tensors, mine.tensors, atol=1e-5, rtol=1e-5)


def test_a_prefix_of_t5_s_decoder_is_peft_s_where_no_layers_share(tiny_float32: Backbone, tmp_path: Path) -> None:
    backbone = tiny_float32  # of three layers, and with heads × d_kv ≠ d_model, which PEFT takes if it is told
    folder = put(tmp_path / "p", backbone, PrefixTuning(length=4, sites=("decoder",), init="random"))
    wrapped = loaded_by_peft(plain_of(backbone), export_prompt(folder, "peft", backbone=backbone))
    assert_same(ours(backbone, load_prompt(folder).prompts), theirs(backbone, wrapped), backbone)


def shared_by(folder: Path, backbone: Backbone, names: tuple[str, ...], length: int = 3) -> Path:
    """Prompts of several tasks, as multitask prompt tuning makes them."""
    method = METHODS["multitask-prompt-tuning"](length=length, init="random")
    torch.manual_seed(9)
    module = SharedPrompts(torch.randn(1, length, backbone.width), len(names))
    torch.nn.init.normal_(module.u)
    torch.nn.init.normal_(module.v)
    with torch.no_grad():
        each, shared = module(), Prompts({"embeddings": module.shared.detach()})
    task = load_task("+".join(names))
    save_prompt(folder, shared, card_of(backbone, method, task=task, label_words=task.label_words, shared_by=names))
    for number, own in enumerate(task.mixture):
        card = card_of(backbone, method, task=own, label_words=own.label_words)
        save_prompt(folder_of_task(folder, own.name), each, card, number)
    return folder


def test_prompts_of_several_tasks_are_peft_s_multitask_ones(backbone: Backbone, plain: Any, tmp_path: Path) -> None:
    folder = shared_by(tmp_path / "p", backbone, TASKS)
    wrapped = loaded_by_peft(plain, export_prompt(folder, "peft", tmp_path / "theirs", backbone=backbone))
    again = import_prompt(tmp_path / "theirs", "+".join(TASKS), tmp_path / "again", backbone=backbone)
    for number, name in enumerate(TASKS):
        mine = load_prompt(folder).of_task(name).prompts
        assert_same(ours(backbone, mine), theirs(backbone, wrapped, task_ids=torch.tensor([number])), backbone)
        torch.testing.assert_close(again.of_task(name).prompts.tensors, mine.tensors, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (PromptTuning(length=2, init="random", place="after"), "stands after the text, which does not see it"),
        (PrefixTuning(length=2, sites=("answer",), init="random"), "at the answer site, which the text does not see"),
        (PrefixTuning(length=2, sites=("input", "answer"), init="random"), "answer site"),
        (PrefixTuning(length=2, init="random"), "on .*t5.* at the cross site"),
        (PrefixTuning(length=2, sites=("decoder",), init="random", positions="none"), "on .*t5.*--positions none"),
        (METHODS["soft-words"](length=2, init="random"), "soft-words .* adds to states between layers"),
        (METHODS["warp"](length=2, init="random"), "vectors in the place of label words"),
    ],
)
def test_what_peft_cannot_hold_is_refused(
    method: Method, says: str, tiny_float32: Backbone, causal: Backbone, tmp_path: Path
) -> None:
    folder = put(tmp_path / "p", tiny_float32 if "t5" in says else causal, method)
    with pytest.raises(UserError, match=f"{says}.*prompt-tuning"):
        export_prompt(folder, "peft", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_layers_that_would_share_are_refused(tmp_path: Path, even: Backbone) -> None:
    folder = put(tmp_path / "p", even, PrefixTuning(length=2, sites=("decoder",), init="random"))
    with pytest.raises(UserError, match="gives layers 2 apart the same ones"):
        export_prompt(folder, "peft", backbone=even)


def test_an_ensemble_is_refused(causal: Backbone, tmp_path: Path) -> None:
    folder = put_ensemble(tmp_path / "several", causal, [PromptTuning(length=n, init="random") for n in (2, 3)])
    with pytest.raises(UserError, match="is an ensemble; export the prompts"):
        export_prompt(folder, "peft")


def test_a_folder_of_something_else_is_left_alone(causal: Backbone, tmp_path: Path) -> None:
    folder = put(tmp_path / "p", causal, PromptTuning(length=2, init="random"))
    with pytest.raises(UserError, match="holds something else"):
        export_prompt(folder, "peft", folder)
    first = export_prompt(folder, "peft", tmp_path / "theirs")
    assert export_prompt(folder, "peft", tmp_path / "theirs") == first  # its own is replaced


# read


@pytest.fixture
def even() -> Backbone:
    """A T5 of four layers and the shape that PEFT takes for granted."""
    from transformers import AutoTokenizer

    from preface.backbones.load import EMBEDDED
    from preface.backbones.t5 import T5Backbone

    return T5Backbone("even", t5_model(4, "sdpa"), AutoTokenizer.from_pretrained(EMBEDDED / "nano"))


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (peft.PromptTuningConfig, {}),
        (peft.PromptEncoderConfig, {"encoder_hidden_size": 8}),
        (peft.PromptEncoderConfig, {"encoder_hidden_size": 8, "encoder_reparameterization_type": "LSTM"}),
    ],
)
def test_peft_s_embeddings_answer_as_there(
    config: Any, options: dict[str, Any], backbone: Backbone, plain: Any, tmp_path: Path
) -> None:
    kind = "SEQ_2_SEQ_LM" if "encoder" in backbone.sites else "CAUSAL_LM"  # of the first, half of the rows are not read
    wrapped = random(peft.get_peft_model(plain, config(task_type=kind, num_virtual_tokens=4, **options)))
    saved = imported(wrapped, backbone, tmp_path)
    assert saved.prompts.embeddings is not None
    assert saved.prompts.embeddings.shape == (1, 4, backbone.width)
    assert_same(ours(backbone, saved.prompts), theirs(backbone, wrapped), backbone)


@pytest.mark.parametrize("projected", [False, True])
def test_peft_s_t5_prefix_is_taken_as_it_behaves(projected: bool, even: Backbone, tmp_path: Path) -> None:
    settings = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, prefix_projection=projected)
    wrapped = random(peft.get_peft_model(t5_model(4, "sdpa"), settings))
    saved = imported(wrapped, even, tmp_path)
    keys = saved.prompts.tensors["decoder.keys"][0]
    assert torch.equal(keys[0], keys[2])  # layers share
    assert not torch.equal(keys[0], keys[1])
    assert_same(ours(even, saved.prompts), theirs(even, wrapped), even)
    # and back: what PEFT reads is the same, what it does not is left at zero
    again = loaded_by_peft(t5_model(4, "sdpa"), export_prompt(saved.folder, "peft", tmp_path / "again", backbone=even))
    torch.testing.assert_close(theirs(even, again), theirs(even, wrapped))


def test_peft_s_prefix_through_a_network_answers_as_there(causal: Backbone, tmp_path: Path) -> None:
    settings = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True)
    wrapped = random(peft.get_peft_model(plain_of(causal), settings))
    assert_same(ours(causal, imported(wrapped, causal, tmp_path).prompts), theirs(causal, wrapped), causal)


def test_peft_s_multitask_prompts_of_any_rank_answer_as_there(backbone: Backbone, plain: Any, tmp_path: Path) -> None:
    settings = peft.MultitaskPromptTuningConfig(
        task_type="SEQ_2_SEQ_LM" if "encoder" in backbone.sites else "CAUSAL_LM", num_virtual_tokens=3, num_tasks=3,
        num_ranks=2, num_transformer_submodules=1,
    )  # fmt: skip
    wrapped = random(peft.get_peft_model(plain, settings))
    saved = imported(wrapped, backbone, tmp_path, "+".join(TASKS))
    assert saved.card.shared_by == TASKS
    one = import_prompt(tmp_path / "theirs", "film", tmp_path / "one", task_number=1, backbone=backbone)
    for number, name in enumerate(TASKS):
        expected = theirs(backbone, wrapped, task_ids=torch.tensor([number]))
        own = saved.of_task(name)
        assert own.card.task.name == name
        assert_same(ours(backbone, own.prompts), expected, backbone)
        if number == 1:
            assert_same(ours(backbone, one.prompts), expected, backbone)
    with pytest.raises(UserError, match="prompts of 3 tasks, and --task names 1"):
        import_prompt(tmp_path / "theirs", "film", tmp_path / "two", backbone=backbone)
    with pytest.raises(UserError, match=r"task-number 3: .* has prompts of 3 tasks"):
        import_prompt(tmp_path / "theirs", "film", tmp_path / "two", task_number=3, backbone=backbone)


def test_an_imported_prompt_is_used_as_any_other(causal: Backbone, tmp_path: Path) -> None:
    """Its backbone is the one that the folder names; nothing is known of its training."""
    import preface

    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    random(peft.get_peft_model(plain_of(causal), settings)).save_pretrained(tmp_path / "theirs")
    saved = import_prompt(tmp_path / "theirs", "film", tmp_path / "ours", max_input_tokens=24)
    assert (saved.card.backbone, saved.card.fingerprint) == (causal.name, causal.fingerprint)
    assert saved.card.member is None
    (line,) = preface.predict(tmp_path / "ours", ["a lovely film"], backbone=causal)
    assert sum(line["probabilities"].values()) == pytest.approx(1)
    (cell,) = preface.evaluate(tmp_path / "ours", on=["film"], backbone=causal)
    assert (cell.method, cell.details["development_score"], cell.seed) == ("prompt-tuning", None, None)
    store = preface.Store(tmp_path, causal)
    assert store.names() == ["ours"]
    assert store.get("ours").card == saved.card
    with pytest.raises(UserError, match="is there already"):
        import_prompt(tmp_path / "theirs", "film", tmp_path / "ours")


def test_imported_prompts_are_voted_on_and_looked_at(causal: Backbone, tmp_path: Path) -> None:
    import preface
    from preface.insight.page import write_neighbors

    theirs = put(tmp_path / "p", causal, PromptTuning(length=2, init="random"))
    export_prompt(theirs, "numpy", tmp_path / "p.npy")
    import_prompt(tmp_path / "p.npy", "film", tmp_path / "ours", backbone=causal)
    other = put(tmp_path / "other", causal, PromptTuning(length=3, init="random"))
    preface.ensemble([tmp_path / "ours", other], tmp_path / "both", prompts="all", backbone=causal)
    assert load_prompt(tmp_path / "both").card.development_score == 0.5  # of the one that is known
    found = preface.neighbors(tmp_path / "ours", backbone=causal)
    assert found.score is None
    write_neighbors(found, tmp_path / "page.html")
    assert "Development score" not in (tmp_path / "page.html").read_text()


LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8}
GOOD = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (LORA, "is LORA, and PROMPT_TUNING, "),
        (GOOD | {"task_type": "SEQ_CLS"}, "is for SEQ_CLS, and prompts of"),
        (GOOD | {"task_type": "SEQ_2_SEQ_LM"}, "is of a SEQ_2_SEQ_LM model, and .* is another kind"),
        (GOOD | {"modules_to_save": ["lm_head"]}, "weights of the model too"),
        (GOOD | {"num_virtual_tokens": 3}, "has 4 rows, and adapter_config.json says 3 times 1"),
        (GOOD | {"num_virtual_tokens": "x"}, "num_virtual_tokens"),
        (GOOD | {"peft_type": "MULTITASK_PROMPT_TUNING"}, "not prefix_task_cols"),
        (GOOD | {"peft_type": "PREFIX_TUNING"}, "a prefix for 2 layers, with 24 numbers a token"),
        ([], "damaged, or of another version"),
        ("{", "is no JSON"),
    ],
)
def test_what_is_no_prompt_of_peft_is_refused(config: Any, says: str, causal: Backbone, tmp_path: Path) -> None:
    folder = put(tmp_path / "p", causal, PromptTuning(length=4, init="random"))
    path = export_prompt(folder, "peft", tmp_path / "theirs")
    (path / CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UserError, match=says):
        import_prompt(path, "film", tmp_path / "again", backbone=causal)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("rows", [(), (4,), (4, 24, 1)])
@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_what_is_no_table_is_refused(kind: str, rows: tuple[int, ...], causal: Backbone, tmp_path: Path) -> None:
    path = export_prompt(put(tmp_path / "p", causal, PromptTuning(length=4, init="random")), "peft")
    (path / CONFIG).write_text(json.dumps(GOOD | {"peft_type": kind}))
    save_file({"prompt_embeddings": torch.ones(rows)}, path / TENSORS)
    with pytest.raises(UserError, match=r"has prompt_embeddings of sizes \[.*\], and a prompt's have \[length, d\]"):
        import_prompt(path, "film", tmp_path / "again", backbone=causal)


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ((3, 2, 1), (3, 1, 24)),
        ((3, 1, 1), (3, 1, 24)),  # would go with every row
        ((3, 3, 1), (3, 1, 1)),
        ((3, 3, 1), (2, 1, 24)),
        ((3, 3, 1), (3, 2, 24)),
        ((3, 3), (3, 24)),
    ],
)
def test_columns_and_rows_of_other_sizes_are_refused(
    columns: tuple[int, ...], rows: tuple[int, ...], causal: Backbone, tmp_path: Path
) -> None:
    path = export_prompt(shared_by(tmp_path / "p", causal, TASKS), "peft", tmp_path / "theirs", backbone=causal)
    other = {"prefix_task_cols": torch.ones(columns), "prefix_task_rows": torch.ones(rows)}
    save_file(load_file(path / TENSORS) | other, path / TENSORS)
    with pytest.raises(UserError, match=r"and prompt_embeddings \[3, 24\] do not fit together"):
        import_prompt(path, "+".join(TASKS), tmp_path / "again", backbone=causal)
    assert not (tmp_path / "again").exists()


def test_files_that_are_missing_or_cut_are_refused(causal: Backbone, tmp_path: Path) -> None:
    path = export_prompt(put(tmp_path / "p", causal, PromptTuning(length=4, init="random")), "peft")
    (path / TENSORS).write_bytes((path / TENSORS).read_bytes()[:-9])
    with pytest.raises(UserError, match="is no safetensors file"):
        import_prompt(path, "film", tmp_path / "again", backbone=causal)
    (path / TENSORS).unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        import_prompt(path, "film", tmp_path / "again", backbone=causal)
    with pytest.raises(UserError, match="no prompt of PEFT here"):
        import_prompt(tmp_path, "film", tmp_path / "again", backbone=causal)


def test_what_peft_puts_before_the_decoder_s_input_is_refused(tiny_float32: Backbone, tmp_path: Path) -> None:
    settings = peft.MultitaskPromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, num_tasks=1)
    wrapped = random(peft.get_peft_model(plain_of(tiny_float32), settings))
    with pytest.raises(UserError, match="before what the decoder reads"):
        imported(wrapped, tiny_float32, tmp_path)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 40), seed=st.integers(0, 2**16), prefix=st.booleans())
def test_there_and_back_is_the_same_prompt(
    length: int, seed: int, prefix: bool, causal: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("round")
    method = (
        PrefixTuning(length=length, sites=("input",), init="random")
        if prefix
        else PromptTuning(length=length, init="random")
    )
    mine = load_prompt(put(folder / "p", causal, method, seed)).prompts.tensors
    path = export_prompt(folder / "p", "peft", backbone=causal)
    assert load_file(path / TENSORS)["prompt_embeddings"].shape[0] == length
    again = import_prompt(path, "film", folder / "again", backbone=causal).prompts.tensors
    torch.testing.assert_close(again, mine, atol=1e-5 if prefix else 0, rtol=1e-5 if prefix else 0)
