"""Options given by name, and the models whose fields they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from preface.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """`model(**fields)`, a pydantic complaint as one line."""
    with complaining(model.__name__):
        return model(**fields)


@contextmanager
def complaining(name: str) -> Iterator[None]:
    """A pydantic complaint from within is a UserError of one line; `name`: of what is made, if no field is to blame."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or name
        message = first["msg"].removeprefix("Value error, ")
        # of what is missing, pydantic shows all the rest
        got = "" if first["type"] == "missing" else f" (got {first.get('input')!r})"
        raise UserError(f"{where.replace('_', '-')}: {message}{got}") from error


def divided(options: Mapping[str, Any], *models: type[BaseModel]) -> list[dict[str, Any]]:
    """The options of each model. Raises UserError, with what there is, for one that is no model's."""
    known = [name for model in models for name in model.model_fields]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]}?" if near else ";"
            raise UserError(f"{name}: there is no such option{hint} There are {', '.join(known)}")
    return [{name: value for name, value in options.items() if name in model.model_fields} for model in models]
