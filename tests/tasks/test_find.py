"""Where rows come from: data folders, the hub, the package; and what is said if it is nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from socket import create_server
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from preface.tasks import Example, Task, find, list_tasks, load_split, load_task
from preface.tasks.find import refuse_outside
from tests.tasks.making import fails, jsonl, pairs, rows, task, texts
from tests.tasks.test_task import SHIPPED

# Where rows come from


def test_the_data_folder_goes_first_then_the_tasks_own_then_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, given, package = tmp_path / "own", tmp_path / "given", tmp_path / "package"
    definition = {
        "name": "mine",
        "source": {"files": {"parts": {"test": "deep/*.jsonl"}}, "embedded": {"test": "test.jsonl"}},
        "fields": {"input": "text", "label": "label"},
        "labels": {0: "bad", 1: "good"},
        "splits": {"test": {"part": "test"}},
    }
    own.mkdir()
    (own / "mine.yaml").write_text(yaml.safe_dump(definition))
    monkeypatch.setattr(find, "EMBEDDED", package)
    message = fails(load_split, own / "mine.yaml", "test")
    assert f"{own} lacks deep/*.jsonl; {package}/test.jsonl: is not there, install the package again" in message
    jsonl(package / "test.jsonl", rows(1, "package"))
    assert texts(load_split(own / "mine.yaml", "test").examples) == ["package 0"]
    jsonl(own / "deep" / "b.jsonl", rows(1, "own b"))
    jsonl(own / "deep" / "a.jsonl", rows(1, "own a"))
    split = load_split(own / "mine.yaml", "test")
    assert texts(split.examples) == ["own a 0", "own b 0"]
    assert [Path(source.name).name for source in split.sources] == ["a.jsonl", "b.jsonl"]
    jsonl(given / "deep" / "a.jsonl", rows(1, "given"))
    assert texts(load_split(own / "mine.yaml", "test", data=given).examples) == ["given 0"]
    monkeypatch.setenv("PREFACE_DATA", str(given))
    assert texts(load_split(own / "mine.yaml", "test").examples) == ["given 0"]
    assert texts(load_split(own / "mine.yaml", "test", data=tmp_path).examples) == ["own a 0", "own b 0"]


FILES_ONLY = {"semeval_twitter", "trec", "mpqa", "subj"}


@pytest.mark.parametrize("name", sorted(SHIPPED - {"company_news", "film", "posts", "reviews"}))
def test_rows_that_are_nowhere(name: str, tmp_path: Path) -> None:
    message = fails(load_split, name, "test")
    assert message.startswith(f"{name}: its ")
    assert "no data folder is given" in message
    assert "give --data DIR or set PREFACE_DATA" in message
    assert "use a task that comes with rows (company_news, film, posts, reviews)" in message
    assert ("HF_HUB_OFFLINE is set" in message) == (name not in FILES_ONLY)
    assert f"{tmp_path} lacks " in fails(load_split, name, "test", data=tmp_path)


def test_data_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fails(load_split, "sst2", "test", data=tmp_path / "no").startswith(f"--data {tmp_path}/no: there is no such")
    monkeypatch.setenv("PREFACE_DATA", str(tmp_path / "no"))
    assert fails(load_split, "sst2", "test").startswith(f"PREFACE_DATA {tmp_path}/no: there is no such folder")
    monkeypatch.setenv("PREFACE_DATA", "")
    assert "no data folder is given" in fails(load_split, "sst2", "test")


def test_texts_and_labels_in_two_files(tmp_path: Path) -> None:
    folder = tmp_path / "tweet_eval_sentiment"
    folder.mkdir()
    (folder / "test_text.txt").write_text("so\u2028good\nmeh\nbad\n", encoding="utf-8")
    assert "lacks tweet_eval_sentiment/test_text.txt, tweet_eval_sentiment/test_labels.txt" in fails(
        load_split, "tweets", "test", data=tmp_path
    )
    (folder / "test_labels.txt").write_text("2\n1\n0\n")
    split = load_split("tweets", "test", data=tmp_path)
    assert split.examples == [Example.of("so\u2028good", "positive"), Example.of("bad", "negative")]
    assert [(Path(source.name).name, source.rows) for source in split.sources] == [
        ("test_text.txt", 3),
        ("test_labels.txt", 3),
    ]
    kept = load_split("tweets:neutral=keep", "test", data=tmp_path)
    assert [example.label for example in kept.examples] == ["positive", "neutral", "negative"]


def test_files_as_their_authors_distribute_them(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "dev.tsv").write_text('sentence\tlabel\n"it \'s a charm \t1\nbleak "\t0\n')
    assert load_split("sst2", "test", data=tmp_path).examples == [
        Example.of("\"it 's a charm", "positive"),
        Example.of('bleak "', "negative"),
    ]
    (tmp_path / "financial_phrasebank").mkdir()
    (tmp_path / "financial_phrasebank" / "Sentences_75Agree.txt").write_bytes(
        b"Sales in \xc5land rose , info@x.fi said .@positive\r\nNothing new .@neutral\r\n"
    )
    assert load_split("financial_phrasebank:agreement=75", "test", data=tmp_path).examples == [
        Example.of("Sales in Åland rose , info@x.fi said .", "positive")
    ]
    (tmp_path / "glue" / "CoLA").mkdir(parents=True)
    (tmp_path / "glue" / "CoLA" / "dev.tsv").write_text('gj04\t1\t\tWe "yelled".\ngj04\t0\t*\tWe yelled hoarse.\n')
    assert load_split("cola", "test", data=tmp_path).examples == [
        Example.of('We "yelled".', "acceptable"),
        Example.of("We yelled hoarse.", "unacceptable"),
    ]
    mrpc = '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t8\t9\tHe said " so .\tSo he said .\r\n'
    (tmp_path / "glue" / "MRPC").mkdir()
    (tmp_path / "glue" / "MRPC" / "dev.tsv").write_bytes(mrpc.encode())
    assert pairs(load_split("mrpc", "test", data=tmp_path).examples) == [
        ('He said " so . Does that mean that So he said .', "yes")
    ]
    (tmp_path / "glue" / "QQP").mkdir()
    (tmp_path / "glue" / "QQP" / "dev.tsv").write_text(
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        '0\t3\t4\tWhat is "soft"?\tWhat does soft mean?\t1\n5\t8\t9\tWho?\tWhere?\t0\n'
    )
    assert pairs(load_split("qqp", "test", data=tmp_path).examples) == [
        ('What is "soft"? Does that mean that What does soft mean?', "yes"),
        ("Who? Does that mean that Where?", "no"),
    ]
    (tmp_path / "glue" / "STS-B").mkdir()
    (tmp_path / "glue" / "STS-B" / "dev.tsv").write_text(
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        '0\tnews\tMSRvid\t2012\t1\tnone\tnone\tA "plane" lands.\tIt lands.\t3.857\n'
    )
    assert pairs(load_split("stsb", "test", data=tmp_path).examples) == [
        ('A "plane" lands. How alike is this, from 0 to 5? It lands.', "3.8")
    ]
    jsonl(tmp_path / "semeval_twitter" / "train.jsonl", [
        {"text": '"I\\u2019m \\""""so\\"""" happy\\u002c \\""yes\\"""', "label": "positive"}
    ])  # fmt: skip
    assert texts(load_split("semeval_twitter", "test", data=tmp_path).examples) == ['"I’m "so" happy, "yes""']


def test_shipped_tasks_are_listed_with_where_their_rows_are(tmp_path: Path) -> None:
    jsonl(tmp_path / "cr" / "all.jsonl", rows(3))
    found = {info.name: info for info in list_tasks(tmp_path)}
    assert found["cr"].places == {"train": "folder", "validation": "folder", "test": "folder"}
    assert set(found["imdb"].places.values()) == {"hub"}
    assert set(found["semeval_twitter"].places.values()) == {"nowhere"}
    assert set(found["posts"].places) == {"test"}
    assert all(info.description for info in found.values())
    assert {info.name: info.places for info in list_tasks()}["cr"]["test"] == "hub"


def test_a_task_from_elsewhere_reads_nothing_outside(tmp_path: Path) -> None:
    secret = jsonl(tmp_path / "secret.jsonl", rows(4))
    for own in (task(), load_task("film")):
        refuse_outside(own)
    rules = {"test": {"part": "test"}}
    hub = {"splits": {"test": "train"}}
    for source in (
        {"files": {"parts": {"test": str(secret)}}},
        {"files": {"parts": {"test": "../secret.jsonl"}}},
        {"files": {"parts": {"test": "C:\\secret.jsonl"}}},
        {"files": {"parts": {"test": "test.jsonl"}, "format": "txt", "labels": {"test": "deep/../../secret.jsonl"}}},
        {"files": {"parts": {"test": "test.jsonl", "train": str(secret)}}},
        {"embedded": {"test": "../../../secret.jsonl"}},
        {"hub": hub | {"id": str(tmp_path)}},
        {"hub": hub | {"id": "a/b", "folder": "../secret"}},
    ):
        foreign = task(source=source, splits=rules)
        message = fails(refuse_outside, foreign)
        assert message.startswith("mine: it comes from elsewhere and names ")
        assert "secret" in message or str(tmp_path) in message
    message = fails(refuse_outside, task(folder=tmp_path))
    assert f"names {tmp_path}, which is not in the data folder" in message


def test_a_hub_name_from_elsewhere_is_no_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(tmp_path / "mine" / "train.jsonl", rows(4))
    monkeypatch.chdir(tmp_path)
    foreign = task(source={"hub": {"id": "mine", "splits": {"test": "train"}}}, splits={"test": {"part": "test"}})
    assert len(load_split(foreign, "test").examples) == 4
    assert "names mine, which is not" in fails(refuse_outside, foreign)


# The hub


def hub_task(own: Path, **changes: Any) -> Task:
    hub = {"id": "data", "splits": {"train": "train", "test": "validation"}} | changes
    rules = {"train": {"part": "train"}, "test": {"part": "test"}}
    return task(source={"hub": hub}, splits=rules, folder=own)


@pytest.mark.parametrize("folder", [None, "kept"])
def test_a_local_folder_in_the_hubs_format(tmp_path: Path, folder: str | None) -> None:
    inner = tmp_path / "data" / (folder or "")
    jsonl(inner / "train.jsonl", rows(20))
    jsonl(inner / "validation.jsonl", rows(3, "other", labels=3))
    each = hub_task(tmp_path, **({"folder": folder} if folder else {}))
    split = load_split(each, "test")
    assert split.examples == [Example.of("other 0", "bad"), Example.of("other 1", "good")]
    assert [(source.rows, source.sha256, source.revision) for source in split.sources] == [(3, None, None)]
    assert split.sources[0].name == f"data {folder} validation" if folder else "data validation"
    assert len(load_split(each, "train").examples) == 20


def test_a_local_folder_of_parquet_with_both_splits_as_one_part(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "test")):
        path = tmp_path / "data" / "sentences" / name / "0000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows(4 + number, name)), path)
    each = hub_task(tmp_path, folder="sentences", splits={"train": "train+test", "test": "test"})
    assert len(load_split(each, "test").examples) == 5
    assert len(load_split(each, "train").examples) == 4


def test_bad_rows_and_missing_splits_of_the_hub(tmp_path: Path) -> None:
    jsonl(tmp_path / "data" / "train.jsonl", [*rows(3), {"text": None, "label": 1}])
    hub = {"hub": {"id": "data", "splits": {"train": "train"}}}
    alone = task(source=hub, splits={"train": {"part": "train"}}, folder=tmp_path)
    assert fails(load_split, alone, "train").startswith("data train row 4: the field 'text' is empty")
    assert len(load_split(alone, "train", skip_bad_rows=True).skipped) == 1
    each = hub_task(tmp_path, splits={"train": "train", "test": "dev"})
    assert "hub data set data: not available (Unknown split" in fails(load_split, each, "test")
    jsonl(tmp_path / "data" / "train.jsonl", rows(3))
    message = fails(load_split, each, "train")
    assert message.startswith("mine: its test part was not found")
    assert message.endswith("it is needed to keep its texts out of train")


def test_one_data_set_of_several_in_one_file(tmp_path: Path) -> None:
    mixed = [{"text": f"{name} {i}", "label": i % 2, "of": name} for i in range(3) for name in ("a", "b", 7)]
    jsonl(tmp_path / "test.jsonl", mixed)
    source = {"files": {"parts": {"test": "test.jsonl"}}}
    rules = {"test": {"part": "test"}}
    for value in ("a", 7):
        own = task(source=source | {"where": {"of": value}}, splits=rules)
        split = load_split(own, "test", data=tmp_path)
        assert texts(split.examples) == [f"{value} {i}" for i in range(3)]
        assert [found.rows for found in split.sources] == [3]
    foreign = task(source=source | {"where": {"set": "a"}}, splits=rules)
    assert "test.jsonl line 1: has no field 'set'; its fields are 'text', 'label', 'of'" in fails(
        load_split, foreign, "test", data=tmp_path
    )
    nothing = task(source=source | {"where": {"of": "c"}}, splits=rules)
    assert "an empty split: no rows are left for test" in fails(load_split, nothing, "test", data=tmp_path)


SUBSETS = {"RE": "RelationExtraction", "DuoRC": "DuoRC.ParaphraseRC"}
"""What the data set calls those of MRQA that the task calls otherwise."""


@pytest.mark.parametrize("place", ["hub", "data folder"])
def test_mrqa_in_the_hub_s_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """As its card has it: `subset` says which of the six sets a row is of; `answers` are texts."""
    names = ("BioASQ", "DROP", "DuoRC", "RACE", "RE", "TextbookQA")
    spans = {"text": ["red"], "char_spans": [{"start": [0], "end": [2]}], "token_spans": [{"start": [0], "end": [0]}]}
    given = [
        {
            "subset": SUBSETS.get(name, name),
            "context": f"red {name}",
            "qid": f"{name}{i}",
            "question": f"Which {i}?",
            "detected_answers": spans,
            "answers": ["red", f"red {name}"],
        }
        for i in range(2)
        for name in names
    ]
    beside = "mrqa-workshop/mrqa/plain_text/test/0000.parquet"
    path = tmp_path / (beside if place == "hub" else "mrqa/test-00000-of-00001.parquet")
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(given), path)
    monkeypatch.chdir(tmp_path)  # a folder of a data set's name goes before the hub
    data = None if place == "hub" else tmp_path
    assert len(load_split("mrqa", "test", data=data).examples) == 12
    for name in names:
        split = load_split(f"mrqa:subset={name}", "test", data=data)
        assert texts(split.examples) == [f"Question: Which {i}? Context: red {name}" for i in range(2)]
        assert [example.answers for example in split.examples] == [("red", f"red {name}")] * 2


@pytest.mark.parametrize("answers", [False, True])
def test_a_hub_out_of_reach_is_given_up_within_seconds(tmp_path: Path, answers: bool) -> None:
    with create_server(("127.0.0.1", 0)) as silent:  # takes connections and never says a word
        address = f"http://127.0.0.1:{silent.getsockname()[1] if answers else 9}"
        script = (
            "import sys\nfrom preface.errors import UserError\nfrom preface.tasks import load_split\n"
            "import datasets, time\nbegan = time.monotonic()\n"
            "try: load_split('sst2', 'test')\nexcept UserError as error: print(error)\n"
            "print(time.monotonic() - began)"
        )
        environment = {k: v for k, v in os.environ.items() if k not in ("PREFACE_DATA", "HF_HUB_OFFLINE")}
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
    message, seconds = done.stdout.splitlines()
    assert "hub data set nyu-mll/glue: not available (" in message
    assert float(seconds) < 10
    assert done.stderr == ""
