"""A stand-in for the Hugging Face hub: what its client asks for, of files in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def hub_of(repositories: dict[str, dict[str, bytes]], token: str = "hf_stand_in") -> Iterator[str]:
    """The address of a hub that has these files, by repository and name; who sends the token may add more."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != f"Bearer {token}":
                return self._send(401, b'{"error": "Invalid credentials"}', {}, True)
            if self.path == "/api/repos/create":
                wanted = json.loads(body)
                name = f"{wanted.get('organization') or 'somebody'}/{wanted['name']}"
                status = 409 if name in repositories else 200
                repositories.setdefault(name, {})
                return self._send(status, json.dumps({"url": f"{self._hub}/{name}"}).encode(), {}, True)
            name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
            if "/preupload/" in self.path:
                files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
                return self._send(200, json.dumps({"files": files}).encode(), {}, True)
            if "/commit/" not in self.path:  # whether a page is as it should be
                return self._send(200, b'{"errors": [], "warnings": []}', {}, True)
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {"commitUrl": f"{self._hub}/{name}/commit/0", "commitOid": "0", "success": True}
            self._send(200, json.dumps(commit).encode(), {}, True)

        @property
        def _hub(self) -> str:
            return f"http://{self.headers['Host']}"

        def _answer(self, body: bool) -> None:
            owner, name, *rest = self.path.partition("?")[0].removeprefix("/api/models").strip("/").split("/")
            files = repositories.get(f"{owner}/{name}")
            if files is None:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            commit = hashlib.sha1(b"".join(files.values())).hexdigest()
            if rest[:1] == ["resolve"]:
                content = files["/".join(rest[2:])]
                etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
                return self._send(200, content, etag, body)
            if rest[:1] == ["tree"]:
                tree = [{"type": "file", "path": file, "size": len(files[file]), "oid": "0" * 40} for file in files]
                return self._send(200, json.dumps(tree).encode(), {}, body)
            about = {"id": f"{owner}/{name}", "sha": commit, "siblings": [{"rfilename": file} for file in files]}
            self._send(200, json.dumps(about).encode(), {}, body)

        def _send(self, status: int, content: bytes, headers: Mapping[str, str], body: bool) -> None:
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
