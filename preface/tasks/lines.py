"""Lines of text: from a stream of bytes, in bounded memory; and of values for messages, which are one line each."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from preface.errors import UserError

STDIN = "-"
CHUNK = 1 << 16
LONGEST = 1 << 24
"""The longest line, and the longest cell of a table: a file without line ends must not fill the memory."""


def shown(source: str | Path) -> str:
    """A file's path, or `standard input`."""
    return "standard input" if str(source) == STDIN else str(source)


def brief(text: object) -> str:
    """A value on one line, cut where it becomes too long to read."""
    line = " ".join(str(text).split()).encode(errors="replace").decode()  # half characters cannot be printed
    return line if len(line) <= 200 else line[:199] + "…"


def listed(names: Iterable[object]) -> str:
    """`'a', 'b', 'c'`, or `none`."""
    return brief(", ".join(f"'{name}'" for name in names)) or "none"


def refuse_half_characters(text: str, place: str, fields: Iterable[str]) -> None:
    """Raise UserError for half of a surrogate pair, which JSON can write and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: the field {listed(fields)} holds half a character; correct it") from error


def sha256_of(path: str | Path) -> str:
    """Of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def open_bytes(source: str | Path) -> Iterator[BinaryIO]:
    """Open a file, a `.gz` or `.zst` file, or standard input (`-`).

    Raises UserError if it is not there, is no file, may not be read, or is a broken gzip or Zstandard file.
    """
    if str(source) == STDIN:
        with _standard_input() as stream:
            yield stream
        return
    path = Path(source)
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                yield cast(BinaryIO, stream)
        elif path.suffix == ".zst":
            with _zstandard(path) as text:
                yield text
        else:
            with path.open("rb") as stream:
                yield stream
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; name a file in it") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: is not a whole gzip file ({error}); compress or download it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error


@contextmanager
def _standard_input() -> Iterator[BinaryIO]:
    """A reader of its own: Python cannot end while a thread waits in `sys.stdin`'s."""
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):  # no file, as in a notebook or a test
        yield sys.stdin.buffer
        return
    with open(number, "rb", closefd=False) as stream:
        yield stream


@contextmanager
def _zstandard(path: Path) -> Iterator[BinaryIO]:
    import pyarrow as pa  # Python itself reads Zstandard from 3.14 on

    with path.open("rb") as file:
        try:
            with pa.CompressedInputStream(file, "zstd") as stream:
                yield cast(BinaryIO, stream)
        except OSError as error:
            raise UserError(
                f"{path}: is not a whole Zstandard file ({error}); compress or download it again"
            ) from error


def iter_lines(stream: BinaryIO, name: str, encoding: str = "utf-8") -> Iterator[str]:
    """Lines without their `\\n` (a `\\r` before it is kept), as they arrive; a byte order mark is left out.

    Raises UserError for an unknown encoding, for bytes that are not in it (with offset and line), and for a
    line longer than `LONGEST` characters.
    """
    decoder = _decoder(encoding)
    # read1 hands over what a pipe holds now, where read would wait for a whole chunk
    read = getattr(stream, "read1", stream.read)
    offset = count = 0
    rest = ""
    while True:
        chunk = read(CHUNK)
        offset += len(chunk)
        try:
            rest += decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line = count + 1 + error.object[: error.start].decode(error.encoding, errors="replace").count("\n")
            raise UserError(
                f"{name} line {line}: byte 0x{error.object[error.start]:02x} at offset "
                f"{offset - len(error.object) + error.start} is not {encoding}; {_other(encoding)}"
            ) from error
        except UnicodeError as error:  # a UTF-16 file without its mark
            raise UserError(f"{name}: is not {encoding} ({error}); {_other(encoding)}") from error
        *lines, rest = rest.split("\n")
        count += len(lines)
        yield from lines
        if len(rest) > LONGEST:
            raise UserError(f"{name} line {count + 1}: is longer than {LONGEST:,} characters; give a file of lines")
        if not chunk:
            break
    if rest:
        yield rest


def _other(encoding: str) -> str:
    return f"name the file's encoding, as in --encoding {'cp1252' if 'utf' in encoding.lower() else 'utf-8'}"


def _decoder(encoding: str) -> codecs.IncrementalDecoder:
    try:
        "".encode(encoding)  # raises for codecs that are no text encodings, such as base64
        normal = codecs.lookup(encoding).name
        return codecs.getincrementaldecoder("utf-8-sig" if normal == "utf-8" else normal)()
    except (LookupError, ValueError) as error:
        raise UserError(f"unknown encoding '{encoding}'; common ones are utf-8, latin-1, cp1252, utf-16") from error
