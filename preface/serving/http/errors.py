"""What goes wrong, as an object that says what would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from preface.errors import UserError
from preface.serving.store import UnknownPromptError
from preface.serving.waiting import ClosedError, FullError

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "too_large_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}
LONGEST = 500
"""Characters of a message: it may quote what was sent."""


class RefusedError(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str, param: str | None = None, after: float | None = None) -> None:
        """`param`: the field that is wrong; `after`: seconds after which it may be tried again."""
        super().__init__(message)
        self.status, self.message, self.param, self.after = status, message, param, after

    @property
    def response(self) -> JSONResponse:
        headers = None if self.after is None else {"Retry-After": str(max(1, round(self.after)))}
        return JSONResponse(as_object(self.status, self.message, self.param), self.status, headers)


def as_object(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """As OpenAI's API writes errors."""
    plain = message.encode("utf-8", "backslashreplace").decode()  # half a character cannot be sent
    if len(plain) > LONGEST:
        plain = f"{plain[:LONGEST]}…"
    return {"error": {"message": plain, "type": KINDS.get(status, "server_error"), "param": param, "code": status}}


def refusal_of(error: Exception) -> RefusedError:
    """What a mistake of the caller's, or a full or closing engine, is called over HTTP."""
    match error:
        case RefusedError():
            return error
        case UnknownPromptError():
            return RefusedError(404, str(error), "model")
        case UserError():
            return RefusedError(400, str(error))
        case FullError():
            return RefusedError(429, "too many texts are waiting; try again in a moment", after=1)
        case ClosedError():
            return RefusedError(503, "the server is stopping; ask another one", after=5)
        case OSError():
            return RefusedError(503, f"the server cannot write or read a file ({error.strerror}); tell who runs it")
    return RefusedError(500, "something went wrong here; the server's log says what")


def add_handlers(app: FastAPI) -> None:
    """Have every error answered by an object."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        return refusal_of(error).response

    for kind in (RefusedError, UserError, FullError, ClosedError, OSError, Exception):
        app.add_exception_handler(kind, known)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        problem: Mapping[str, Any] = error.errors()[0]
        place = ".".join(map(str, problem["loc"][1:])) or "body"
        status = 400 if problem["type"] == "json_invalid" else 422
        message = str(problem["msg"]).removeprefix("Value error, ")
        return RefusedError(status, f"{place}: {message}", place[:LONGEST]).response

    app.add_exception_handler(RequestValidationError, invalid)

    async def of_starlette(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse(as_object(error.status_code, str(error.detail)), error.status_code, error.headers)

    app.add_exception_handler(HTTPException, of_starlette)
