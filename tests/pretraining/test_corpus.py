"""Documents from every kind of source, and what is said where there is none."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preface.errors import UserError
from preface.pretraining.corpus import Document, identity, iter_documents

TEXTS = ["First of all.", "é, then\tmore"]
LINES = "First of all.\n\n   \né, then\tmore\n"
ROWS = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in [TEXTS[0], " ", TEXTS[1]])


def plain(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def gzipped(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def zstandard(path: Path, text: str) -> None:
    with pa.output_stream(path, compression="zstd") as stream:
        stream.write(text.encode())


@pytest.mark.parametrize(("suffix", "write"), [("", plain), (".gz", gzipped), (".zst", zstandard)])
@pytest.mark.parametrize(("name", "text", "lines"), [("a.txt", LINES, (1, 4)), ("a.jsonl", ROWS, (1, 3))])
def test_lines_and_rows_in_every_compression(
    tmp_path: Path, name: str, text: str, lines: tuple[int, int], suffix: str, write: Callable[[Path, str], None]
) -> None:
    path = tmp_path / (name + suffix)
    write(path, text)
    places = [f"{path} line {line}" for line in lines]
    assert list(iter_documents([path])) == list(map(Document, TEXTS, places))


def test_parquet_and_the_name_of_the_field(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": [TEXTS[0], None, TEXTS[1]]}), path)
    plain(tmp_path / "b.txt", "a line has no fields\n")
    found = list(iter_documents([path, str(tmp_path / "b.txt")], field="body"))
    assert [d.text for d in found] == [*TEXTS, "a line has no fields"]
    assert [d.place for d in found[:2]] == [f"{path} row 1", f"{path} row 3"]


@pytest.mark.parametrize("suffix", ["", ":", "::train", ":default:train"])
def test_a_folder_in_the_hubs_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    plain(tmp_path / "set" / "train.jsonl", ROWS)
    source = f"hf:{tmp_path}/set{suffix}"
    assert [d.text for d in iter_documents([source])] == TEXTS
    assert identity(source) == {"name": source, "revision": None}


def test_break_tags_and_long_lines(tmp_path: Path) -> None:
    plain(tmp_path / "a.txt", f"one<br />two<BR/>three<br>four\n{'word ' * 100_000}\n<br /> \n")
    short, long = iter_documents([tmp_path / "a.txt"])
    assert short.text == "one two three four"
    assert len(long.text) == 499_999


def test_identity_is_of_the_bytes(tmp_path: Path) -> None:
    plain(tmp_path / "a.txt", LINES)
    assert identity(tmp_path / "a.txt")["sha256"] == hashlib.sha256(LINES.encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", None, "a.txt: there is no such file"),
        ("a.txt.zst", None, "a.txt.zst: there is no such file"),
        ("a.txt.zst", b"no zstandard", "a.txt.zst: is not a whole Zstandard file"),
        ("a.txt.gz", b"no gzip", "a.txt.gz: is not a whole gzip file"),
        ("a.doc", b"x", "a.doc: its name does not say its format"),
        ("a.jsonl", b'{"body": "x"}\n', "a.jsonl line 1: has no field 'text'; its fields are 'body'"),
        ("a.jsonl", b'{"text": 7}\n', "a.jsonl line 1: the field 'text' is no text but int"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a.jsonl line 1: the field 'text' holds half a character"),
        ("a.txt", b"fine\n\xff\n", "a.txt line 2: byte 0xff"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(iter_documents([tmp_path / name]))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_zstandard_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    zstandard(path, "".join(f"line {i}\n" for i in range(50_000)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a whole Zstandard file"):
        list(iter_documents([path]))


@pytest.mark.parametrize("source", ["hf:", "hf:a:b:c:d"])
def test_references_that_are_none(source: str) -> None:
    with pytest.raises(UserError, match="write hf:ID"):
        list(iter_documents([source]))


def test_a_data_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^hf:no/such: not available .*; check its name"):
        identity("hf:no/such")


def test_standard_input_is_read_once_only() -> None:
    with pytest.raises(UserError, match="save it as a file"):
        identity("-")
