"""Rows from files: what is written comes back, what is broken is named by file, line and field."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preface.errors import UserError
from preface.tasks import Row, iter_rows
from preface.tasks.lines import CHUNK, LONGEST
from preface.tasks.read import count_parquet

Table = list[dict[str, str]]

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r\t"), min_size=1, max_size=40)


def tables(cells: st.SearchStrategy[str]) -> st.SearchStrategy[Table]:
    names = st.lists(st.text("abcdefgh _", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=4, unique=True)
    return names.flatmap(lambda keys: st.lists(st.fixed_dictionaries(dict.fromkeys(keys, cells)), max_size=8))


def write_table(path: Path, rows: Table, dialect: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["a"], dialect=dialect)
        writer.writeheader()
        writer.writerows(rows)


def write_unquoted(path: Path, rows: Table) -> None:
    names = list(rows[0]) if rows else ["a"]
    lines = ["\t".join(cells) for cells in (names, *([row[name] for name in names] for row in rows))]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")


def write_jsonl(path: Path, rows: Table) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=bool(i % 2)) + "\n" for i, r in enumerate(rows)), "utf-8")


def write_parquet(path: Path, rows: Table) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def fields(path: str | Path, **options: Any) -> list[dict[str, Any]]:
    return [row.fields for row in iter_rows(path, **options)]


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fails(path: str | Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        list(iter_rows(path, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", lambda p, r: write_table(p, r, "excel")),
        ("a.csv", lambda p, r: write_table(p, r, "unix")),
        ("a.tsv", lambda p, r: write_table(p, r, "excel-tab")),
        ("a.jsonl", write_jsonl),
        ("a.parquet", write_parquet),
    ],
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=tables(TEXT))
def test_what_is_written_is_read(tmp_path: Path, name: str, write: Callable[[Path, Table], None], rows: Table) -> None:
    path = tmp_path / name
    write(path, rows)
    assert fields(path) == rows
    if name != "a.parquet":
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert fields(packed) == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=tables(LINE), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_tables_without_quoting_and_other_encodings(tmp_path: Path, rows: Table, encoding: str) -> None:
    path = tmp_path / "a.tsv"
    write_unquoted(path, rows)
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    assert fields(path, quoted=False, encoding="utf-8" if encoding == "utf-8-sig" else encoding) == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(texts=st.lists(LINE.filter(lambda text: bool(text.strip()))))
def test_lines_with_labels_beside_and_behind(tmp_path: Path, texts: list[str]) -> None:
    path = file(tmp_path, "a.txt", "".join(f"{text}\n" for text in texts))
    labels = file(tmp_path, "labels.txt", "".join(f"{i % 3}\n" for i in range(len(texts))))
    wanted = [{"text": text, "label": str(i % 3)} for i, text in enumerate(texts)]
    assert fields(path) == [{"text": text} for text in texts]
    assert fields(path, labels=labels) == wanted
    behind = file(tmp_path, "b.txt", "".join(f"{row['text']}@{row['label']}\r\n" for row in wanted))
    assert fields(behind, format="text@label") == wanted


@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.parquet", "a.csv.gz"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
def test_any_bytes_are_rows_or_one_line_of_error(tmp_path: Path, content: bytes, name: str) -> None:
    path = file(tmp_path, name, content)
    for encoding in ("utf-8", "latin-1", "utf-16"):
        said = str(path)
        try:
            rows = list(iter_rows(path, encoding=encoding))
        except UserError as error:
            rows, said = [], str(error)
        assert all(isinstance(row, Row) for row in rows)
        assert said.startswith(str(path))
        assert "\n" not in said


def test_lines_are_counted_where_rows_begin(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", 'text,label\r\n"one\ntwo",1\n\nthree,0')
    assert [(row.line, row.fields["text"]) for row in iter_rows(path)] == [(2, "one\ntwo"), (5, "three")]
    path = file(tmp_path, "a.jsonl", '\n{"text": "a"}\r\n  \n{"text": "b"}')
    assert [(row.line, row.place) for row in iter_rows(path)] == [
        (2, f"{path} line 2"),
        (4, f"{path} line 4"),
    ]
    write_parquet(tmp_path / "a.parquet", [{"text": str(i)} for i in range(3000)])
    assert [row.line for row in iter_rows(tmp_path / "a.parquet")] == list(range(1, 3001))
    assert next(iter(iter_rows(tmp_path / "a.parquet"))).place == f"{tmp_path}/a.parquet row 1"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 3000), group=st.integers(1, 1500), ends=st.tuples(st.integers(0, 3100), st.integers(0, 3100))
)
def test_a_part_of_parquet_is_a_part_of_all_its_rows(
    tmp_path: Path, size: int, group: int, ends: tuple[int, int]
) -> None:
    """Wherever its groups of rows, and the 1,024 that are read at a time, begin and end."""
    pq.write_table(pa.table({"text": [str(i) for i in range(size)]}), tmp_path / "p.parquet", row_group_size=group)
    part = range(min(ends), max(ends))
    everything = list(iter_rows(tmp_path / "p.parquet"))
    assert list(iter_rows(tmp_path / "p.parquet", part=part)) == everything[part.start : part.stop]
    assert count_parquet(tmp_path / "p.parquet") == size


def test_columns_separator_and_byte_order_mark(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", "a;1\nb;2")
    assert fields(path, separator=";", columns=["x", "y"]) == [{"x": "a", "y": "1"}, {"x": "b", "y": "2"}]
    path = file(tmp_path, "b.csv", b"\xef\xbb\xbf text ,label\na,1")
    assert fields(path) == [{"text": "a", "label": "1"}]


@pytest.mark.parametrize(
    ("content", "format", "wanted"),
    [
        (b'\n {"text": "a"}\n{"text": "b"}\n', None, [{"text": "a"}, {"text": "b"}]),
        (b"text,n\na,1\n", None, [{"text": "a", "n": "1"}]),
        (b"text\tn\na\t1\n", "tsv", [{"text": "a", "n": "1"}]),
        (b"one\ntwo", "txt", [{"text": "one"}, {"text": "two"}]),
        (b"", None, []),
        (b"\n \n", None, []),
    ],
)
def test_standard_input(
    monkeypatch: pytest.MonkeyPatch, content: bytes, format: Any, wanted: list[dict[str, str]]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert fields("-", format=format) == wanted


def test_standard_input_is_named_and_cannot_be_parquet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "a"}\n{"text"')))
    assert fails("-").startswith("standard input line 2: is not JSON at column")
    assert fails("-", format="parquet").startswith("standard input: Parquet cannot be streamed")


def test_rows_of_a_pipe_come_as_they_are_written() -> None:
    script = "from preface.tasks import iter_rows\nfor row in iter_rows('-'): print(row.fields['text'], flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in ("one", "two"):
            process.stdin.write(json.dumps({"text": text}) + "\n")
            assert process.stdout.readline() == f"{text}\n"


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert fails(tmp_path / "no.csv") == f"{tmp_path}/no.csv: there is no such file; check the path"
    assert "there is no such file" in fails(tmp_path / "no.parquet")
    assert "there is no such file" in fails(file(tmp_path, "a.txt", "a"), labels=tmp_path / "no.txt")
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in fails(tmp_path / "folder.csv")
    (tmp_path / "folder.parquet").mkdir()
    assert "is a folder" in fails(tmp_path / "folder.parquet")
    assert "is not a whole gzip file" in fails(file(tmp_path, "a.csv.gz", "text\na"))
    whole = gzip.compress(b"text\n" + os.urandom(3 * CHUNK).hex().encode())
    assert "is not a whole gzip file" in fails(file(tmp_path, "b.csv.gz", whole[: len(whole) // 2]))
    assert "is not a Parquet file" in fails(file(tmp_path, "a.parquet", "text"))
    assert "is not a Parquet file" in fails(file(tmp_path, "b.parquet", ""))
    for name in ("a.xlsx", "a", "a.parquet.gz", ".gz"):
        assert "its name does not say its format; names end in .csv, .tsv, .jsonl" in fails(tmp_path / name)


@pytest.mark.parametrize("before", [0, 3 * CHUNK])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_wrong_encoding_is_named_by_line_and_offset(tmp_path: Path, before: int, mark: bytes) -> None:
    good = mark + b"text,label\n" + b"a,1\n" * (before // 4) + b"caf\xc3\xa9,1\n"
    path = file(tmp_path, "a.csv", good + b"caf\xe9,0\n")
    assert fails(path) == (
        f"{path} line {good.count(chr(10).encode()) + 1}: byte 0xe9 at offset {len(good) + 3} is not utf-8; "
        "name the file's encoding, as in --encoding cp1252"
    )
    assert fields(path, encoding="latin-1")[-1]["label"] == "0"


def test_other_mistakes_with_encodings(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", "text\né")
    assert "unknown encoding 'utf-9'" in fails(path, encoding="utf-9")
    assert "unknown encoding 'base64'" in fails(path, encoding="base64")
    assert "is not ascii; name the file's encoding, as in --encoding utf-8" in fails(path, encoding="ascii")
    assert "is not utf-16" in fails(path, encoding="utf-16")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "a,a\n1,2", "line 1: the header names the field 'a' twice"),
        ("a.csv", "a,\0\n1,2", "line 1: the header holds a NUL byte"),
        ("a.csv", '"a"b,c\n1,2', "line 1: its quoting is broken"),
        ("a.csv", "a,b\n1,2\n1", "line 3: has 1 cells, but the header has 2 ('a', 'b')"),
        ("a.csv", "a,b\n1,2,3", "line 2: has 3 cells, but the header has 2"),
        ("a.csv", 'a,b\n"x"y,2', "line 2: its quoting is broken (',' expected after '\"')"),
        ("a.csv", 'a,b\n\n"x,2\n3,4', "line 3: its quoting is broken (unexpected end of data)"),
        ("a.csv", "a,b\nx\0,2", "line 2: the field 'a' holds a NUL byte"),
        ("a.jsonl", '{"a": 1}\n{"a": 1', "line 2: is not JSON at column 8"),
        ("a.jsonl", '{"a": "x\0"}', "line 1: is not JSON at column"),
        ("a.jsonl", '{"a": "x\\u0000"}', "line 1: the field 'a' holds a NUL byte"),
        ("a.jsonl", "[1]", "line 1: is not a JSON object"),
        ("a.json", "[\n{}\n]", "line 1: is not JSON"),
        ("a.jsonl", "9" * 5000, "line 1: is not JSON that can be read"),
        ("a.jsonl", "[" * 100_000, "line 1: is not JSON that can be read"),
        ("a.txt", "a\0", "line 1: the field 'text' holds a NUL byte"),
    ],
)
def test_broken_rows(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = file(tmp_path, name, content)
    assert fails(path).startswith(f"{path} {said}")


def test_labels_beside_and_behind_that_are_missing(tmp_path: Path) -> None:
    path, short = file(tmp_path, "a.txt", "a\nb\n"), file(tmp_path, "short.txt", "1\n")
    long = file(tmp_path, "long.txt", "1\n2\n3\n")
    assert fails(path, labels=short).startswith(f"{short} line 2: there is none, but {path} has one")
    assert fails(path, labels=long).startswith(f"{path} line 3: there is none, but {long} has one")
    assert fails(path, format="text@label").startswith(f"{path} line 1: has no '@label' at its end")


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    path = file(tmp_path, "a.csv", 'a,b\n1\n"x"y,2\n3,\0\n5,6\n"7,8\n')
    assert fields(path, on_bad=said.append) == [{"a": "5", "b": "6"}]
    assert [message.removeprefix(f"{path} ").split(":")[0] for message in said] == [
        "line 2",
        "line 3",
        "line 4",
        "line 6",
    ]
    said.clear()
    path = file(tmp_path, "a.jsonl", '{"a": 1}\n{\n3\n{"a": 2}\n')
    assert fields(path, on_bad=said.append) == [{"a": 1}, {"a": 2}]
    assert len(said) == 2


def test_long_cells_are_read_and_endless_lines_are_not(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    assert fields(file(tmp_path, "a.csv", f"text,label\n{long},1\n")) == [{"text": long, "label": "1"}]
    endless = file(tmp_path, "b.jsonl", b"x" * (LONGEST + CHUNK))
    assert fails(endless).startswith(f"{endless} line 1: is longer than 16,777,216 characters")
    unclosed = file(tmp_path, "c.csv", b'text\n"' + b"x" * 80 + b"\n" + (b"y" * 99 + b"\n") * (LONGEST // 100 + 1))
    assert fails(unclosed).startswith(f"{unclosed} line 2: its quoting is broken (field larger than field limit")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    script = (
        "import resource, sys\nfrom preface.tasks import iter_rows\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "next(iter_rows(sys.argv[1])); before = peak()\n"
        "print(sum(1 for _ in iter_rows(sys.argv[1])), peak() - before)"
    )
    path = file(tmp_path, "a.jsonl", json.dumps({"text": "x" * 1000}) + "\n")
    path.write_bytes(path.read_bytes() * 60_000)
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    rows, grown = map(int, done.stdout.split())
    assert rows == 60_000
    unit = 1 if sys.platform == "darwin" else 1024
    assert grown * unit < 10_000_000 < path.stat().st_size


NESTED = {"text": "passage.text", "question": "passage.questions.ask", "answer": "passage.questions.answers.say"}
PASSAGE = {
    "text": "t",
    "questions": [{"ask": "q", "answers": [{"say": "a"}, {"say": "b"}]}, {"ask": "r", "answers": []}],
}


def test_lists_of_nested_objects_are_rows(tmp_path: Path) -> None:
    path = file(tmp_path, "nested.jsonl", "\n" + json.dumps({"passage": PASSAGE, "other": 1}))
    rows = list(iter_rows(path, nested=NESTED))
    assert [row.fields for row in rows] == [{"text": "t", "question": "q", "answer": answer} for answer in "ab"]
    assert {row.line for row in rows} == {2}


def test_nested_places_that_are_not_there(tmp_path: Path) -> None:
    lines = [{"passage": PASSAGE}, {"passage": {"text": "t"}}, {"passage": 3}]
    path, bad = file(tmp_path, "nested.jsonl", "\n".join(map(json.dumps, lines))), []
    assert len(list(iter_rows(path, nested=NESTED, on_bad=bad.append))) == 2
    assert [message.partition(";")[0] for message in bad] == [
        f"{path} line 2: has no field 'passage.questions'",
        f"{path} line 3: has no field 'passage.text'",
    ]
