"""The model in lm-evaluation-harness, beside lm-eval's own `hf` and beside `preface evaluate`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig

import preface
from preface.backbones.base import Backbone, Context
from preface.backbones.load import load_backbone
from preface.errors import UserError
from preface.methods import Method, PrefixTuning, PromptTuning
from preface.methods.warp import Warp
from preface.records.run import Run
from tests.backbones.test_causal_cue import tokenizer

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from preface.lm_eval import __main__ as command
from preface.lm_eval import model as module
from preface.lm_eval.continuations import continuation_scores
from preface.lm_eval.model import PrefaceLM

DECODER_ONLY = ["begun", "not begun"]
IN_FLOAT32 = {"dtype": "float32", "device": "cpu"}
ASKED = [
    ("a fine film, and a long one\nSentiment:", " positive"),
    ("a fine film, and a long one\nSentiment:", " negative"),
    ("a fine film, and a long one\nSentiment:", " positive and negative"),
    ("a fine film, and a long one\nSentiment:", " positive and long"),
    ("Is it so: ", "yes"),
    ("Is it so: ", "no"),
    ("", "a fine film"),
    ("x", " y"),
    ("and a long one, " * 12, "and so on"),
]
WORDS = {"label_words": {"yes": "positive", "no": "negative"}}
TASK = """
task: rows
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: {text}
doc_to_choice: [positive, negative]
doc_to_target: "{{{{['yes', 'no'].index(label)}}}}"
metric_list: [{{metric: acc}}]
"""


def instances(kind: str, arguments: Sequence[tuple[Any, ...]], document: int | None = None) -> list[Instance]:
    about = ("rows", document, 1)
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0, metadata=about) for each in arguments]


@pytest.fixture(scope="session")
def folders(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of a T5 (`hf` ties input and output embeddings whatever there is, so that only tied ones can be
    compared), and decoder-only ones whose tokenizer begins texts with a piece of its own, or does not."""
    found = {"t5": checkpoints["t5-v1.0"]}
    for name in DECODER_ONLY:
        pieces = tokenizer(name == "begun")
        config = LlamaConfig(
            vocab_size=len(pieces), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, bos_token_id=0, eos_token_id=1, pad_token_id=2, max_position_embeddings=64,
        )  # fmt: skip
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        found[name] = tmp_path_factory.mktemp("decoder-only")
        model.save_pretrained(found[name])
        pieces.save_pretrained(found[name])
    return found


@pytest.fixture(params=DECODER_ONLY)
def decoder_only(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture(params=[*DECODER_ONLY, "t5"])
def both(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[HFLM, PrefaceLM]:
    """lm-eval's own model and ours, of one checkpoint."""
    folder = str(folders[request.param])
    return HFLM(pretrained=folder, batch_size=2, **IN_FLOAT32), PrefaceLM(backbone=folder, **IN_FLOAT32)


def test_without_a_prompt_log_probabilities_are_those_of_hf(both: tuple[HFLM, PrefaceLM]) -> None:
    theirs, ours = (lm.loglikelihood(instances("loglikelihood", ASKED)) for lm in both)
    assert [found for found, _ in ours] == pytest.approx([found for found, _ in theirs], rel=1e-4, abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_without_a_prompt_perplexities_are_those_of_hf(both: tuple[HFLM, PrefaceLM]) -> None:
    texts = [("a fine film",), ("and a long one, " * 40,), ("a fine film, or so",)]
    theirs, ours = (lm.loglikelihood_rolling(instances("loglikelihood_rolling", texts)) for lm in both)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_without_a_prompt_generated_text_is_that_of_hf(decoder_only: Path) -> None:
    theirs = HFLM(pretrained=str(decoder_only), batch_size=2, **IN_FLOAT32)
    ours = PrefaceLM(backbone=str(decoder_only), **IN_FLOAT32)
    plain = [(context or "a", {"until": [], "max_gen_toks": 12}) for context, _ in ASKED]
    whole = theirs.generate_until(instances("generate_until", plain))
    assert ours.generate_until(instances("generate_until", plain)) == whole
    stops = sorted({text[3:5] for text in whole if len(text) > 8 and "�" not in text[3:5]})[:2]
    stopped = [(context, {"until": stops, "max_gen_toks": 12}) for context, _ in plain]
    found = ours.generate_until(instances("generate_until", stopped))
    assert found == theirs.generate_until(instances("generate_until", stopped))
    assert found != whole


def test_what_t5_generates_is_what_transformers_generates(folders: dict[str, Path]) -> None:
    """`hf` cannot: Transformers' cache fails where a decoder is deeper than its encoder."""
    lm = PrefaceLM(backbone=str(folders["t5"]), **IN_FLOAT32)
    model = AutoModelForSeq2SeqLM.from_pretrained(folders["t5"]).eval()
    texts = ["a fine film", "no, not that one"]
    found = lm.generate_until(instances("generate_until", [(text, {"max_gen_toks": 6}) for text in texts]))
    for text, written in zip(texts, found, strict=True):
        ids = lm.tokenizer(text, return_tensors="pt")
        tokens = model.generate(**ids, max_new_tokens=6, do_sample=False, use_cache=False)
        assert written == lm.tokenizer.decode(tokens[0], skip_special_tokens=True)
        assert written


@pytest.mark.parametrize("kind", ["decoder-only", "t5"])
def test_scores_are_those_of_one_pass_a_continuation(kind: str, causal_folder: Path, tiny_float32: Backbone) -> None:
    backbone = load_backbone(causal_folder, **IN_FLOAT32) if kind == "decoder-only" else tiny_float32
    texts, lead_ins = [[5, 9, 7], [8, 4, 6, 11]], [(3,), (2,)]

    def after(row: int, pieces: list[int]) -> torch.Tensor:
        one = backbone.read(*backbone.pad([texts[row]]))
        return backbone.logits(one, torch.tensor([[*lead_ins[row], *pieces]]))[0].log_softmax(-1)

    with torch.inference_mode():
        likeliest: list[list[int]] = [[], []]
        for row, pieces in [*enumerate(likeliest)] * 3:
            pieces.append(int(after(row, pieces)[-1].argmax()))
        asked = [[likeliest[0], [5, 6], likeliest[0][:1]], [[7], likeliest[1], [*likeliest[1][:2], 9]]]
        found = continuation_scores(backbone, backbone.read(*backbone.pad(texts)), lead_ins, asked)
        for row, some in enumerate(asked):
            for pieces, (score, _) in zip(some, found[row], strict=True):
                own = after(row, pieces[:-1]).gather(1, torch.tensor(pieces)[:, None])
                assert score == pytest.approx(float(own.sum()), abs=1e-4)
    assert [[greedy for _, greedy in row] for row in found] == [[True, False, True], [False, True, False]]


def test_a_context_is_read_once(decoder_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = PrefaceLM(backbone=str(decoder_only), **IN_FLOAT32)
    read, rows = type(lm.backbone).read, []

    def counted(backbone: Backbone, ids: Any, *rest: Any) -> Context:
        rows.append(len(ids))
        return read(backbone, ids, *rest)

    monkeypatch.setattr(type(lm.backbone), "read", counted)
    whole = lm.loglikelihood(instances("loglikelihood", ASKED))
    assert sum(rows) == len({context.rstrip() for context, _ in ASKED})
    monkeypatch.setattr(module, "TOGETHER", 3)  # in several rows
    rows.clear()
    for one, other in zip(lm.loglikelihood(instances("loglikelihood", ASKED)), whole, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert sum(rows) == len({context.rstrip() for context, _ in ASKED})


def trained(backbone: Path, rows: Path, method: Method, out: Path, **changes: Any) -> Run:
    given = {"steps": 12, "learning_rates": [0.2], "batch_size": 8, "dtype": "float32", "device": "cpu"}
    return preface.train(str(backbone), rows, method, out=out, **WORDS, **given | changes)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("t5", PrefixTuning(length=3)),
        ("t5", PromptTuning(length=3)),
        ("decoder-only", PrefixTuning(length=3)),
        ("decoder-only", PrefixTuning(length=3, sites=("input",))),
    ],
    ids=str,
)
def test_a_task_is_scored_as_evaluate_scores_it(
    kind: str, method: Method, checkpoint_folder: Path, causal_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    backbone = checkpoint_folder if kind == "t5" else causal_folder
    run = trained(backbone, data_file, method, tmp_path / "run")
    (cell,) = preface.evaluate(run, [data_file], prompts="best", backbone=str(backbone), **WORDS, **IN_FLOAT32)
    text = '"{{text|trim}}"' if kind == "t5" else '"{{text|trim}}\\nAnswer:"'
    task = TASK.format(rows=data_file, cache=tmp_path / "cache", text=text)
    (tmp_path / "rows.yaml").write_text(task)
    results = simple_evaluate(
        model="preface",
        model_args={"prompt": str(run.folder), "backbone": str(backbone), **IN_FLOAT32},
        tasks=["rows"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    assert results["results"]["rows"]["acc,none"] == pytest.approx(cell.value)
    samples = sorted(results["samples"]["rows"], key=lambda sample: sample["doc_id"])
    said = [json.loads(line)["probabilities"] for line in Path(cell.details["predictions"]).read_text().splitlines()]
    assert len({round(row["positive"], 4) for row in said}) > 10  # not one number for all
    for sample, row in zip(samples, said, strict=True):
        scores = torch.tensor([float(found) for found, _ in sample["filtered_resps"]]).softmax(0)
        assert scores.tolist() == pytest.approx([row["positive"], row["negative"]], abs=1e-4)


def test_generation_is_under_the_prompt(causal_folder: Path, data_file: Path, tmp_path: Path) -> None:
    run = trained(causal_folder, data_file, PrefixTuning(length=3), tmp_path / "run")
    lm = PrefaceLM(prompt=str(run.folder), **IN_FLOAT32)
    contexts = ["the good thing\nAnswer:", "the bad thing\nAnswer:"]
    found = lm.generate_until(instances("generate_until", [(text, {"max_gen_toks": 5}) for text in contexts]))
    bare = PrefaceLM(backbone=str(causal_folder), **IN_FLOAT32)
    assert found != bare.generate_until(instances("generate_until", [(text, {"max_gen_toks": 5}) for text in contexts]))
    for text, written in zip(contexts, found, strict=True):
        read, lead_in = lm.backbone.continued(text)
        context = lm.backbone.read(*lm.backbone.pad([read]), lm.prompts)
        tokens = lm.backbone.generate(context, lm.prompts, lead_in=lead_in, max_new_tokens=5, do_sample=False)
        assert written == lm.tokenizer.decode(tokens[0], skip_special_tokens=True)


def test_where_one_continuation_begins_another_both_are_ended(
    causal_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    """As label words are: what follows a word is then part of what is asked."""
    run = trained(causal_folder, data_file, PrefixTuning(length=3), tmp_path / "run")
    lm, bare = PrefaceLM(prompt=str(run.folder), **IN_FLOAT32), PrefaceLM(backbone=str(causal_folder), **IN_FLOAT32)

    def answered(lm: PrefaceLM, *continuations: list[int]) -> list[list[int]]:
        lm.documents = [("rows", 0)] * len(continuations)
        return lm._answers([(None, [7, 8], pieces) for pieces in continuations])

    end = lm.backbone.end
    assert answered(lm, [4, 5], [6], [4, 6]) == [[4, 5], [6], [4, 6]]
    assert answered(lm, [4, 5], [6], [4]) == [[4, 5, end], [6, end], [4, end]]
    assert answered(bare, [4, 5], [4]) == [[4, 5], [4]]


def test_other_rows_with_the_same_context_change_no_number(
    causal_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    run = trained(causal_folder, data_file, PrefixTuning(length=3), tmp_path / "run")
    lm = PrefaceLM(prompt=str(run.folder), **IN_FLOAT32)
    context = "the good thing\nAnswer:"
    plain = instances("loglikelihood", [(context, " good"), (context, " bad")], document=0)
    begun = instances("loglikelihood", [(context, " good"), (context, " good thing")], document=1)
    alone = [lm.loglikelihood(some) for some in (plain, begun)]
    assert alone[1][0][0] < alone[0][0][0] - 0.1  # ended, since it begins another
    for one, other in zip(lm.loglikelihood([*plain, *begun, *plain]), [*alone[0], *alone[1], *alone[0]], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_what_cannot_be_asked_is_refused(causal_folder: Path, data_file: Path, tmp_path: Path) -> None:
    run = trained(causal_folder, data_file, PrefixTuning(length=3), tmp_path / "run", seeds=2)
    with pytest.raises(UserError, match=r"model_args promt: there is no such argument; there are prompt, backbone"):
        PrefaceLM(promt=str(run.folder), **IN_FLOAT32)
    with pytest.raises(UserError, match="not to foretell it; leave prompt= out"):
        PrefaceLM(prompt=str(run.folder), **IN_FLOAT32).loglikelihood_rolling(
            instances("loglikelihood_rolling", [("a text",)])
        )
    preface.ensemble([run], tmp_path / "ensemble", [data_file], **IN_FLOAT32)
    with pytest.raises(UserError, match="an ensemble only chooses among its labels"):
        PrefaceLM(prompt=str(tmp_path / "ensemble"), **IN_FLOAT32)
    vectors = trained(causal_folder, data_file, Warp(length=2), tmp_path / "vectors")
    with pytest.raises(UserError, match="its label vectors only choose among its labels"):
        PrefaceLM(prompt=str(vectors.folder), **IN_FLOAT32)


def test_a_mistake_on_the_command_line_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: PrefaceLM(prompt="nowhere"))
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("preface: nowhere: no prompt here")


def test_the_command_has_it_beside_the_models_of_lm_eval() -> None:
    script = (
        "import lm_eval.__main__\n"
        "lm_eval.__main__.cli_evaluate = lambda: None\n"
        "from preface.lm_eval.__main__ import main\n"
        "main()\n"
        "from lm_eval.api.registry import model_registry\n"
        "print(*(name for name in ('preface', 'hf', 'vllm') if name in model_registry))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["preface", "hf", "vllm"], done.stderr


def test_the_page_works_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "lm-eval.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFACE_DTYPE", "float32")
    own_tasks_alone = partialmethod(TaskManager.__init__, include_defaults=False)  # there are thousands of others
    monkeypatch.setattr(TaskManager, "__init__", own_tasks_alone)
    rows = [{"text": f"a {word} film, number {i}", "label": label} for i in range(5) for word, label in OPINIONS]
    Path("my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    Path("my-films.yaml").write_text(task)
    preface.train("nano", "film", PrefixTuning(length=2), out="runs/film", steps=2, learning_rates=[0.01])
    (cell,) = preface.evaluate("runs/film", ["my.jsonl"], prompts="best")
    (line,) = re.findall(r"^python -m preface.lm_eval (.*--include_path.*)$", page, re.MULTILINE)
    monkeypatch.setattr(sys, "argv", ["lm_eval", *line.split()])
    command.main()
    (found,) = re.findall(r"\|acc +\|[^|]*\| *([\d.]+)\|", capsys.readouterr().out)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    assert float(found) == pytest.approx(cell.value, abs=1e-4)
    assert float(capsys.readouterr().out.splitlines()[-1]) == pytest.approx(cell.value)


OPINIONS = [("lovely", "positive"), ("dull", "negative")]
