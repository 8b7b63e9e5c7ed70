"""Serving over a cluster: engines as replicas of Ray Serve, and a front that hands each request to one of them.

A replica answers by the routes of `preface serve`, unchanged. The front decides which: by a hash of the text, so that
the next question about it finds it read. The hashing is consistent (Karger et al., 1997), so that a replica that comes
or goes moves few texts; where one has its hands full, the next on the ring takes what comes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from preface.cluster.join import joined, share, work_in
from preface.errors import UserError, first_line
from preface.extras import check_installed
from preface.serving.http import prompts
from preface.serving.http.access import Access
from preface.serving.http.app import create_app
from preface.serving.http.asking import until_gone
from preface.serving.http.errors import RefusedError, as_object, refusal_of
from preface.serving.http.guard import Bounded, Known
from preface.serving.http.limits import Limits
from preface.serving.http.metrics import side_by_side
from preface.serving.http.setup import Setup
from preface.terminal.progress import say, warn

MOST_AT_ONCE = 64
"""Requests that a replica has in hand; the next goes to another. So many small texts are a batch and more."""
TARGET = 16
"""Requests in hand, on average, beyond which another replica is started, and far below which one is ended."""
RETRIES = 3
"""How often a request is given to another replica where one was lost."""
SENT = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers",
        "client", "server")  # fmt: skip
"""What a replica hears of a request, beside its body."""
ROUTER: Any = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
QUIET = {"enable_access_log": False, "log_level": "CRITICAL"}
"""What Ray Serve logs is for those who program it."""
LOST, NONE = "the replica that answered was lost; ask again", "no replica answers; try again later"
FIELDS = ("input", "inputs", "prompt", "messages")
"""Where the routes have their texts."""


class Replica:
    """On a machine of the cluster: an engine behind the routes of `preface serve`."""

    def __init__(self, setup: Setup, folder: str) -> None:
        """`folder`: where the command was called. Raises UserError."""
        work_in(folder, setup.folder)
        self.engine = setup.engine()
        # the front has asked for keys, and counted; a replica needs to know who asks, and what they may
        keys = [key.model_copy(update={"requests_per_minute": None}) for key in setup.keys]
        self.app = create_app(self.engine, Access(keys), setup.limits, setup.runs)

    def check_health(self) -> None:
        """Raise where the engine has stopped: Ray Serve then puts another replica in this one's place."""
        if not self.engine.thread.is_alive():
            raise RuntimeError("the engine has stopped")

    async def __call__(self, scope: Scope, body: bytes) -> AsyncIterator[list[Message]]:
        """What the routes answer, as it comes. A caller that goes cancels it."""
        said: asyncio.Queue[Message | None] = asyncio.Queue()
        heard = asyncio.Queue[Message]()
        heard.put_nowait({"type": "http.request", "body": body, "more_body": False})

        async def answer() -> None:
            try:
                await self.app(scope, heard.get, said.put)
            finally:
                said.put_nowait(None)

        answering = asyncio.create_task(answer())
        try:
            while (message := await said.get()) is not None:
                messages = [message]
                while not said.empty() and (message := said.get_nowait()) is not None:
                    messages.append(message)
                yield messages
                if message is None:
                    break
        finally:
            answering.cancel()
            with suppress(asyncio.CancelledError, Exception):  # the routes have told the caller of it, and the log
                await answering

    async def page(self, scope: Scope) -> tuple[str, list[Message]]:
        """This replica's name, and a page of its own, whole."""
        from ray import serve

        async with aclosing(self(scope, b"")) as messages:  # type: ignore[type-var]
            return serve.get_replica_context().replica_id.unique_id, [each async for some in messages for each in some]


class Front:
    """An ASGI application whose requests are answered by replicas."""

    def __init__(self, handle: Any, limits: Limits) -> None:
        """`handle`: of the replicas' deployment."""
        self.handle, self.limits = handle, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        sent = {name: scope[name] for name in SENT if name in scope}
        answering = asyncio.ensure_future(self._answer(sent, body, send))
        going = asyncio.ensure_future(until_gone(request))
        try:
            await asyncio.wait({answering, going}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            going.cancel()
            answering.cancel()
            with suppress(asyncio.CancelledError):
                await answering

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        try:
            await (self._metrics(scope, send) if scope["path"] == "/metrics" else self._one(scope, body, send))
        except Exception as error:
            refused = refusal_of(error)
            await refused.response(scope, None, send)  # type: ignore[arg-type]
            if refused.status == 500:
                raise  # into the log

    async def _one(self, scope: Scope, body: bytes, send: Send) -> None:
        """Have a replica answer; where it is lost before it has begun to, another. Raises RefusedError."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        handle = self.handle.options(stream=True, session_id=asked_about(scope, body))
        begun = False
        try:
            async with asyncio.timeout(self.limits.timeout) as until:
                for left in reversed(range(RETRIES + 1)):
                    answer = handle.remote(scope, body)
                    try:
                        async for messages in answer:
                            begun = True
                            until.reschedule(None)
                            for message in messages:
                                await send(message)
                        return
                    except asyncio.CancelledError:
                        answer.cancel()
                        raise
                    except RayError as lost:
                        if begun:  # only what is written in pieces comes in several
                            said = json.dumps(as_object(503, LOST))
                            await send(
                                {"type": "http.response.body", "body": f"data: {said}\n\ndata: [DONE]\n\n".encode()}
                            )
                            return
                        if not left:
                            raise RefusedError(503, LOST, after=1) from lost
                        warn(f"a replica was lost ({first_line(lost)}); another one is asked")
        except BackPressureError as full:
            raise RefusedError(429, "too many requests are waiting; try again in a moment", after=1) from full
        except TimeoutError as late:
            seconds = f"{self.limits.timeout:g} seconds"
            raise RefusedError(503, f"no replica answered within {seconds}; try again later", after=5) from late
        except RayServeException as none:
            raise RefusedError(503, NONE, after=5) from none

    async def _metrics(self, scope: Scope, send: Send) -> None:
        """The pages of all replicas as one, in which a label says whose a number is."""
        answers = await self.handle.broadcast("page", scope).results_async(
            timeout_s=self.limits.timeout, return_exceptions=True
        )
        pages = dict(answer for answer in answers if not isinstance(answer, BaseException))
        if not pages:
            raise RefusedError(503, NONE, after=5)
        said = next(iter(pages.values()))
        if said[0]["status"] == 200:
            whole = side_by_side({name: b"".join(m.get("body", b"") for m in page) for name, page in pages.items()})
            headers = [(b"content-type", b"text/plain; version=0.0.4"), (b"content-length", str(len(whole)).encode())]
            said = [said[0] | {"headers": headers}, {"type": "http.response.body", "body": whole}]
        for message in said:
            await send(message)


def asked_about(scope: Scope, body: bytes) -> str:
    """What decides which replica answers: the text of a request, in whichever of the routes' fields it stands.

    Changes of prompts go to one replica, which makes them one after another. Empty: any will do.
    """
    if scope["path"].startswith(prompts.router.prefix) and scope["method"] != "GET":
        return "prompts"
    try:
        asked = json.loads(body)
        text = next(asked[name] for name in FIELDS if name in asked)
    except (ValueError, TypeError, StopIteration, RecursionError):
        return ""  # no text, or what the replica refuses
    if isinstance(text, list) and text and isinstance(text[-1], dict):
        text = text[-1].get("content", text)  # the last message is what a prompt reads of a chat
    while isinstance(text, list | dict) and len(text) == 1:
        (text,) = text.values() if isinstance(text, dict) else text
    return hashlib.blake2b(json.dumps(text).encode(), digest_size=16).hexdigest()


@contextmanager
def on_cluster(
    setup: Setup,
    name: str,
    *,
    address: str | None = None,
    replicas: tuple[int, int] | None = None,
    local: bool = False,
) -> Iterator[Known]:
    """An ASGI application whose requests are answered by replicas over a Ray cluster, which end with the block.

    Args:
        name: of the application in the cluster; one that is there by this name is replaced.
        address: of the cluster (`preface.cluster.join.joined`).
        replicas: the least and the most; between them the load decides. Default: 1, and one a machine.
        local: only programs of this machine may ask, and no pages of other sites.

    Raises:
        UserError: what the user can put right, such as a folder that a machine does not see.
    """
    check_installed("cluster", "ray")
    try:
        from ray import serve
    except ImportError as error:
        raise UserError("serve: needs ray[serve]; `pip install 'preface[cluster]'` brings what is missing") from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its warnings are for those who program it
    with joined(address):
        serve.start(proxy_location="Disabled", logging_config=QUIET)
        try:
            handle = _deployed(setup, name, replicas)
            bounded = Bounded(Front(handle, setup.limits), setup.limits.max_body)
            yield Known(bounded, Access(setup.keys), local)
        finally:
            serve.delete(name)  # Ray Serve itself stays: others may use it, and the next call begins sooner


def _deployed(setup: Setup, name: str, replicas: tuple[int, int] | None) -> Any:
    """The handle of replicas, when the least of them are there. Raises UserError."""
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    least, most = replicas or (1, len(machines))
    takes = share(most, setup.device)
    needed = {kind: takes[name] for kind, name in (("CPU", "num_cpus"), ("GPU", "num_gpus")) if takes[name]}
    room = sum(int(min(machine.get(kind, 0) // count for kind, count in needed.items())) for machine in machines)
    if least > room:
        raise UserError(f"replicas {least}: the cluster has room for {room}, one a core, or a GPU, at most")
    say(f"starting {least} {'replica' if least == 1 else 'replicas'}, as soon as the cluster has room")
    router = RequestRouterConfig(request_router_class=ROUTER, request_router_kwargs={"num_fallback_replicas": most})
    scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": TARGET}
    deployment: Any = serve.deployment(
        Replica,
        ray_actor_options=takes,
        max_ongoing_requests=MOST_AT_ONCE,
        max_queued_requests=setup.limits.max_waiting,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=setup.limits.timeout,
        request_router_config=router,
        logging_config=QUIET,
        **({"num_replicas": most} if least == most else {"autoscaling_config": scaling}),
    )
    try:
        return serve.run(deployment.bind(setup, os.getcwd()), name=name, route_prefix=None)
    except RuntimeError as error:
        told = "".join(each.message for each in serve.status().applications[name].deployments.values())
        mistakes = re.findall(r"^preface\.[\w.]*Error: (.+)$", told, re.MULTILINE)
        why = mistakes[-1] if mistakes else f"serve: the replicas did not start ({first_line(error)})"
        raise UserError(why) from error
