"""What stands before all routes: who asks, and how much, before anything of it is read."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from preface.serving.http import prompts
from preface.serving.http.access import Access
from preface.serving.http.errors import RefusedError

OPEN = ("/", "/page.css", "/page.js", "/health", "/ready", "/openapi.json", "/docs")
"""What everybody may see: the page, which asks for a key, the list of routes, and whether the server runs."""
LOCAL = ("localhost", "127.0.0.1", "::1")
FOR_PROMPTS = 64
"""How many times larger a prompt that is sent may be than another request."""


class Known:
    """Middleware that asks who a caller is; the routes find it in the request's state."""

    def __init__(self, app: Any, access: Access, local: bool) -> None:
        """`local`: the server is for programs of this machine alone."""
        self.app, self.access, self.local = app, access, local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN and not scope["path"].startswith("/docs/"):
            request = Request(scope)
            try:
                if not self.access.keys:
                    _check_origin(request, self.local)
                address = request.client.host if request.client else "unknown"
                request.state.caller = self.access.caller(request.headers.get("authorization"), address)
                if (scope["method"], scope["path"]) == ("POST", prompts.router.prefix):
                    request.state.caller.check_write()  # before so large a body is read
            except RefusedError as refused:
                return await refused.response(scope, receive, send)
        await self.app(scope, receive, send)


def _check_origin(request: Request, local: bool) -> None:
    """Raise RefusedError for what another site's page sends by the browser of somebody who looks at it: where no key is
    needed, it could do all that its reader can."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise RefusedError(403, f"origin {origin}: pages of other sites may not ask here; give the server --keys")
    listening = (request.scope.get("server") or ("",))[0]  # which may be 127.0.0.2
    if local and not {host, host.rpartition(":")[0].strip("[]")} & {*LOCAL, listening}:
        raise RefusedError(403, f"host {host}: this server is for its own machine; call it localhost")


class Bounded:
    """Middleware that refuses a body that is too large before it is read, or while it is."""

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        most = self.most * (FOR_PROMPTS if scope["path"] == prompts.router.prefix else 1)
        failure = RefusedError(413, f"a request may have {most:,} bytes here")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            return await failure.response(scope, receive, send)
        had = 0

        async def receiving() -> Any:
            nonlocal had
            message = await receive()
            had += len(message.get("body", b""))
            return message if had <= most else {"type": "http.disconnect"}

        async def sending(message: Any) -> None:
            if had <= most:  # else what the application says of half a body
                await send(message)

        await self.app(scope, receiving, sending)
        if had > most:
            await failure.response(scope, receive, send)
