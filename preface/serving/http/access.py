"""Who may ask what: keys, the prompts that each may use, and how often."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Lock
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from preface.errors import UserError, first_line, problem_of
from preface.serving.http.errors import RefusedError


class Key(BaseModel):
    """One caller, as the file of keys names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    """In logs and metrics, where the key itself never stands."""
    key: str | None = Field(None, min_length=16)
    """What the caller sends; or, so that the file holds no secret, its `sha256`."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    prompts: tuple[str, ...] = ("*",)
    """Names, or patterns such as `film-*`, of the prompts that it may use."""
    requests_per_minute: float | None = Field(None, gt=0)
    write: bool = False
    """Whether it may add and remove prompts."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give key or sha256")
        return self

    @property
    def digest(self) -> str:
        return self.sha256 or _digest(self.key or "")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: tuple[Key, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    name: str
    key: Key | None = None
    """None: the server has no keys, and everybody may do everything."""

    def may_use(self, name: str) -> bool:
        return self.key is None or any(fnmatchcase(name, pattern) for pattern in self.key.prompts)

    def check(self, names: Iterable[str]) -> None:
        """Raise RefusedError where it may not use one of some prompts."""
        for name in names:
            if self.key is not None and not self.may_use(name):
                raise RefusedError(403, f"prompt {name}: this key may use {', '.join(self.key.prompts)}")

    def check_all(self, what: str) -> None:
        """Raise RefusedError where it may use some prompts alone: what tells of all of them is not for it."""
        if self.key is not None and "*" not in self.key.prompts:
            raise RefusedError(403, f"{what}: of all prompts, and this key may use {', '.join(self.key.prompts)}")

    def check_write(self) -> None:
        """Raise RefusedError where it may not change prompts."""
        if self.key is not None and not self.key.write:
            raise RefusedError(403, "this key may use prompts, not add or remove them; give one with write: true")


class Access:
    """The keys of a server; none: everybody may do everything."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)
        self.allowances: dict[str, tuple[float, float]] = {}
        """Of each key: requests that it may send now, and when that was so."""
        self.lock = Lock()

    @classmethod
    def read(cls, file: Path) -> Access:
        """The keys of a YAML or JSON file. Raises UserError."""
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            keys = _File.model_validate(content).keys
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: is no YAML ({first_line(error)})") from error
        except ValidationError as error:
            raise UserError(f"{file}: {problem_of(error)}") from error
        if len({key.name for key in keys}) < len(keys) or len({key.digest for key in keys}) < len(keys):
            raise UserError(f"{file}: two keys are the same, or have the same name")
        return cls(keys)

    def caller(self, authorization: str | None, address: str) -> Caller:
        """Who sends a request with this `Authorization` header, from this address. Raises RefusedError."""
        if not self.keys:
            return Caller(address)
        kind, _, sent = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not sent:
            raise RefusedError(401, "a key is needed: send the header Authorization: Bearer KEY")
        digest = _digest(sent.strip())
        # every key is compared, each in a time that tells nothing
        found = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        if not found:
            raise RefusedError(401, "this key is not known")
        self._spend(found[0])
        return Caller(found[0].name, found[0])

    def _spend(self, key: Key) -> None:
        """One request of those that a key may send: a minute's at once, and then as they come back."""
        if key.requests_per_minute is None:
            return
        most, now = max(1.0, key.requests_per_minute), time.monotonic()
        with self.lock:
            left, since = self.allowances.get(key.name, (most, now))
            left = min(most, left + (now - since) * key.requests_per_minute / 60)
            if left < 1:
                self.allowances[key.name] = (left, now)
                wait = (1 - left) * 60 / key.requests_per_minute
                raise RefusedError(429, f"this key may send {key.requests_per_minute:g} requests a minute", after=wait)
            self.allowances[key.name] = (left - 1, now)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()
