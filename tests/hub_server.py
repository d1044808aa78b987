"""A small server that speaks as much of the protocol of the Hugging Face Hub as opening needs."""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_letmein"


class Hub:
    """A hub on this machine.

    Attributes:
        repositories: for each its revisions, each a folder of files.
        gated: repositories that need the token.
        asked: all requests.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        names = {"hub": self, "do_GET": _answer, "do_HEAD": _answer, "log_message": _log}
        handler = type("Handler", (BaseHTTPRequestHandler,), names)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def start(self) -> str:
        """Serve from now on; return the address."""
        Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def import_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub read the environment again, as it does when it is imported."""
    for name in [one for one in sys.modules if one.startswith("huggingface_hub")]:
        monkeypatch.delitem(sys.modules, name)


def _log(handler: Any, *_: object) -> None:
    handler.hub.asked.append(f"{handler.command} {handler.path}")


def _answer(handler: Any) -> None:
    hub, path = handler.hub, unquote(urlsplit(handler.path).path)
    parts = path.removeprefix("/api/models").strip("/").split("/")
    name, revision, file = "/".join(parts[:2]), "/".join(parts[3:4]) or "main", "/".join(parts[4:])
    revisions = hub.repositories.get(name)
    if revisions is None:
        return _send(handler, 401, error="RepoNotFound")
    commits = {_commit(folder): folder for folder in revisions.values()}
    folder = {**revisions, **commits}.get(revision)
    if folder is None:
        return _send(handler, 404, error="RevisionNotFound")
    if path.startswith("/api/"):
        files = [one for one in sorted(folder.rglob("*")) if one.is_file()]
        siblings = [{"rfilename": str(one.relative_to(folder))} for one in files]
        about = {"id": name, "sha": _commit(folder), "siblings": siblings}
        return _send(handler, 200, json.dumps(about).encode())
    if name in hub.gated and handler.headers["Authorization"] != f"Bearer {TOKEN}":
        return _send(handler, 403, error="GatedRepo")
    if not (folder / file).is_file():
        return _send(handler, 404, error="EntryNotFound", commit=_commit(folder))
    return _send(handler, 200, (folder / file).read_bytes(), _commit(folder))


def _commit(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


def _send(
    handler: Any,
    status: int,
    body: bytes = b"",
    commit: str = "",
    error: str = "",
) -> None:
    handler.send_response(status)
    headers = {"X-Repo-Commit": commit, "X-Error-Code": error, "Content-Length": str(len(body))}
    headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
    for name, value in headers.items():
        if value:
            handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body)
