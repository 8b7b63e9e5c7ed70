from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

import preface
from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.insight.neighbors import Neighbor, Part, Position, alike, distinct, flattened, mean_cosine, plain
from preface.insight.page import Box, findings, map_of, rich_table, write_neighbors
from preface.methods import PrefixTuning, PromptTuning
from preface.methods.init import Initializer
from preface.methods.p_tuning import PTuning
from preface.prompts import Prompts
from preface.records.card import load_prompt, save_prompt
from preface.records.run import Run
from preface.tasks import load_task


@pytest.fixture(scope="module")
def run(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A prompt that has hardly been trained."""
    return preface.train(
        nano,
        "film",
        PromptTuning(length=4),
        out=tmp_path_factory.mktemp("runs") / "prompt",
        learning_rates=[1e-6],
        steps=1,
        batch_size=4,
    )


@pytest.fixture(scope="module")
def prefix(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two prefixes that have hardly been trained."""
    return preface.train(
        nano,
        "film",
        PrefixTuning(length=3, sites=("encoder", "decoder")),
        out=tmp_path_factory.mktemp("runs") / "prefix",
        learning_rates=[1e-6],
        steps=1,
        batch_size=4,
        seeds=2,
    )


def changed(run: Run, folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """The run's prompt with other tensors."""
    save_prompt(folder, Prompts.one(tensors), load_prompt(run.folder).card)
    return folder


def test_the_nearest_pieces_are_scikit_learns(run: Run, nano: Backbone) -> None:
    (part,) = preface.neighbors(run).parts
    table = nano.embeddings.detach().float().numpy()
    own = run.prompt().prompts.tensors["embeddings"][0].numpy()
    cosines = cosine_similarity(own, table)
    for position, row in zip(part.positions, cosines, strict=True):
        expected: dict[str, float] = {}
        for place in np.argsort(-row):
            word = plain(nano.tokenizer.decode([int(place)]))
            if word and int(place) not in nano.tokenizer.all_special_ids:
                expected.setdefault(word, float(row[place]))
            if len(expected) == 5:
                break
        assert [neighbor.word for neighbor in position.neighbors] == list(expected)
        assert [neighbor.cosine for neighbor in position.neighbors] == pytest.approx(list(expected.values()), abs=1e-4)


def test_a_prompt_of_label_words_is_near_its_label_words(run: Run) -> None:
    """`labels` is the initialisation: the first two positions begin as the two words."""
    (part,) = preface.neighbors(run).parts
    assert part.labels["negative"][:1] == (0,)
    assert 1 in part.labels["positive"]
    assert part.positions[0].moved == pytest.approx(0, abs=1e-4)
    assert part.positions[0].neighbors[0].cosine == pytest.approx(1, abs=1e-4)


def test_label_words_that_persist_are_those_still_near_where_they_began(
    run: Run, tmp_path: Path, nano: Backbone
) -> None:
    (part,) = preface.neighbors(run).parts
    assert part.began == {"negative": (0,), "positive": (1,)}
    negative, *_ = findings(part)
    assert negative.endswith("at the start it was the nearest of token 1, and it still is near token 1.")
    shutil.copytree(run.folder, tmp_path / "run")
    start = run.prompt().prompts.tensors["embeddings"][0]
    there = nano.tokenizer("zebra the", add_special_tokens=False)["input_ids"][-1]
    gone = {"embeddings": torch.cat([nano.embeddings[[there]].float().cpu(), start[1:]])}
    for folder in ("prompt", "prompts/00"):
        changed(run, tmp_path / "run" / folder, gone)
    (part,) = preface.neighbors(tmp_path / "run", backbone=nano).parts
    assert part.began == {"negative": (0,), "positive": (1,)}
    assert 0 not in part.labels["negative"]
    negative, positive, *_ = findings(part)
    assert negative.endswith("at the start it was the nearest of token 1, and it no longer is near.")
    assert positive.endswith("and it still is near token 2.")
    (part,) = preface.neighbors(changed(run, tmp_path / "gift", gone), backbone=nano).parts
    assert part.began is None  # a prompt without its run
    assert "at the start" not in findings(part)[0]


def test_tokens_that_share_most_neighbours_are_a_group() -> None:
    def position(index: int, words: str) -> Position:
        return Position(index, tuple(Neighbor(word, 0.5) for word in words), 0.5, None)

    first = [position(0, "abcde"), position(1, "vwxyz"), position(2, "cdefg"), position(3, "yzcdk")]
    assert alike(first) == ((0, 2),)  # the last shares two with each
    assert alike([*first, position(4, "defgz")]) == ((0, 2, 4),)  # with the third, not with the first
    assert alike(first[:2]) == ()


def a_part(places: list[tuple[float, float]], words: list[tuple[float, float]]) -> Part:
    """Virtual tokens at `places`, and words, `word 0` and so on, at others."""
    positions = tuple(Position(index, (), 0.5, None) for index in range(len(places)))
    names = tuple(f"word {index}" for index in range(len(words)))
    return Part("embeddings", positions, 50, {}, {}, (), 0.1, torch.tensor(places + words), names)


def test_numbers_that_would_cover_each_other_are_one_label() -> None:
    part = a_part([(0, 0), (5, 5), (0.01, 0), (9, 9), (0, 0.01)] + [(9, 0)] * 7, [(2, 3), (3, 2)])
    shown = [text.get_text() for text in map_of(part).axes[0].texts]
    assert sorted(shown[:4]) == ["1, 3, 5", "2", "4", "6, 7, 8, 9 + 3"]


def test_words_on_a_map_cover_neither_each_other_nor_a_number() -> None:
    order = np.random.default_rng(0)
    spread = [tuple(place) for place in order.normal(size=(40, 2)).tolist()]
    shown = map_of(a_part(spread[:5], spread[5:])).axes[0].texts
    boxes = [Box.around(*text.get_position(), text.get_text()) for text in shown]
    assert len(boxes) > 35  # nearly all have room
    assert not any(a.meets(b) for place, a in enumerate(boxes) for b in boxes[:place])
    assert all(box.inside for box in boxes)


def test_how_far_a_token_went(run: Run, tmp_path: Path) -> None:
    start = run.prompt().prompts.tensors["embeddings"][0]
    moved = {"embeddings": start * torch.tensor([[1.0], [3.0], [1.5], [0.0]])}
    shutil.copytree(run.folder, tmp_path / "run")
    for folder in ("prompt", "prompts/00"):
        changed(run, tmp_path / "run" / folder, moved)
    (part,) = preface.neighbors(tmp_path / "run", backbone=run.backbone).parts
    assert [position.moved for position in part.positions] == pytest.approx([0, 2, 0.5, 1], abs=1e-3)
    (part,) = preface.neighbors(changed(run, tmp_path / "gift", moved), backbone=run.backbone).parts
    assert {position.moved for position in part.positions} == {None}  # a prompt without its run


def test_a_prompt_kept_from_before_the_first_step_is_untrained(run: Run, nano: Backbone, tmp_path: Path) -> None:
    worse = preface.train(
        nano, "film", PromptTuning(length=4), out=tmp_path / "run", learning_rates=[1e3], steps=1, batch_size=4
    )
    found = preface.neighbors(worse)
    assert found.untrained
    assert {position.moved for position in found.parts[0].positions} == {0.0}
    card = load_prompt(run.folder).card
    assert card.member is not None
    trained = card.model_copy(update={"member": replace(card.member, step=1)})
    save_prompt(tmp_path / "later", run.prompt().prompts, trained)
    assert not preface.neighbors(tmp_path / "later", backbone=nano).untrained


def test_what_was_hardly_trained_under_a_wording_hardly_went(nano: Backbone, tmp_path: Path) -> None:
    task = load_task("film", wording="sentiment of this one: {text}", cue="It was")
    run = preface.train(
        nano, task, PrefixTuning(length=3), out=tmp_path / "run", learning_rates=[1e-9], steps=1, batch_size=4
    )
    moved = [position.moved for part in preface.neighbors(run).parts for position in part.positions]
    assert moved == pytest.approx([0.0] * len(moved), abs=1e-4)


def test_a_key_of_real_text_is_found_where_it_came_from(prefix: Run, nano: Backbone, tmp_path: Path) -> None:
    """Also at a site of the answer, whose pieces are the label words and what they begin after."""
    assert [part.name for part in preface.neighbors(prefix, layers=[1]).parts] == [
        "encoder, layer 1",
        "decoder, layer 1",
    ]
    text = "a fine film"
    method = PrefixTuning(length=3, sites=("encoder", "decoder"))
    written = method.build(nano, Initializer.parse(f"text:{text}"), [0])().tensors_of(0)
    folder = tmp_path / "written"
    save_prompt(folder, Prompts.one(written), load_prompt(prefix.folder).card)
    encoder, _ = preface.neighbors(folder, layers=[0], backbone=nano).parts
    words = text.split()
    # keys of the first layer depend on the piece alone: the same word of a development text has the same key
    assert [position.neighbors[0].word for position in encoder.positions] == words
    assert all(position.neighbors[0].cosine > 0.999 for position in encoder.positions)


def test_of_few_words_nothing_is_said_but_how_far_tokens_went(prefix: Run, tmp_path: Path) -> None:
    """T5's decoder reads its first piece and the label words: every token would have the same neighbours."""
    found = preface.neighbors(prefix, layers=[1])
    encoder, decoder = found.parts
    assert (encoder.few, decoder.few) == (False, True)
    assert decoder.pool == len({word for p in decoder.positions for word in [n.word for n in p.neighbors]}) == 3
    assert decoder.labels == {}
    assert {position.tightness for position in decoder.positions} == {None}
    few, went = findings(decoder)
    assert few.startswith("Real text makes keys of only 3 words here")
    assert went.startswith("From its start a token went")
    write_neighbors(found, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("<svg") == 1  # the encoder's map
    assert rich_table(decoder).row_count == 3


def test_the_words_of_a_pattern_are_marked_and_not_counted(nano: Backbone, tmp_path: Path) -> None:
    method = PTuning(pattern="*positive*negative", encoder="mlp", width=8)
    run = preface.train(nano, "film", method, out=tmp_path / "run", learning_rates=[1e-3], steps=1, batch_size=4)
    (part,) = preface.neighbors(run).parts
    written = [None if pieces is None else nano.tokenizer.decode(pieces) for pieces in method.parts(nano)]
    assert written == [None, "positive", None, "negative"]  # each one piece
    assert [position.anchor for position in part.positions] == [False, True, False, True]
    assert [part.positions[place].neighbors[0].word for place in (1, 3)] == ["positive", "negative"]
    assert all({1, 3}.isdisjoint(positions) for positions in part.labels.values())
    first, *_, last = findings(part)
    assert first == "Anchors, words of the pattern that stay as they are and do not count: 2 and 4."
    moved = [part.positions[place].moved for place in (0, 2)]
    assert last == f"From its start a token went {np.mean(moved):.2f} times the length it had there."
    write_neighbors(preface.neighbors(run), tmp_path / "page.html")
    assert '<th scope="row">anchor 2</th>' in (tmp_path / "page.html").read_text()
    folder = tmp_path / "run" / "prompt"  # what the card says is enough
    assert [position.anchor for position in preface.neighbors(folder, backbone=nano).parts[0].positions][1]


def test_slips_are_named(run: Run, prefix: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer 9: the encoder site has layers 0 to 3"):
        preface.neighbors(prefix, layers=[9])
    with pytest.raises(UserError, match="layer 0: only a prefix has layers"):
        preface.neighbors(run, layers=[0])
    preface.ensemble([prefix], tmp_path / "all")
    with pytest.raises(UserError, match="is an ensemble; give one of the prompts"):
        preface.neighbors(tmp_path / "all")


def test_two_dimensions_are_scikit_learns() -> None:
    points = torch.randn(12, 7)
    expected = PCA(2).fit_transform(points.numpy())
    np.testing.assert_allclose(np.abs(flattened(points).numpy()), np.abs(expected), atol=1e-4)


def test_words_count_once_whatever_their_case_and_space() -> None:
    assert {plain(piece) for piece in ("Technology", " technology", " TECHNOLOGY ")} == {"technology"}
    scores = torch.tensor([0.1, 0.9, 0.8, 0.7])
    assert distinct(scores, ["a", "b", "b", "c"], 2) == [1, 3]


def test_mean_cosine_leaves_out_what_is_the_same() -> None:
    assert mean_cosine(torch.eye(3)) == pytest.approx(0)
    assert mean_cosine(torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == pytest.approx(1)


def test_a_page_a_picture_and_a_table(run: Run, tmp_path: Path) -> None:
    found = preface.neighbors(run)
    write_neighbors(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "What the prompt is near to: prompt-tuning on film" in page
    (part,) = found.parts
    assert part.positions[2].neighbors[0].word in page
    assert len(map_of(part).axes) == 1
    assert rich_table(part).row_count == 4
    assert "The label word “negative” is near" in findings(part)[0]
    assert "points" not in found.as_json()["parts"][0]
