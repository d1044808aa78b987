"""A small server that speaks as much of the protocol of the Hugging Face Hub as opening needs."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_letmein"


@dataclass
class Hub:
    """Repositories on the server: for each its revisions, each a folder of files.

    A repository in `gated` needs the token. `asked` keeps all requests.
    """

    repositories: dict[str, dict[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    def server(self) -> ThreadingHTTPServer:
        """Return a server of a free port, not yet running."""

        class Handler(BaseHTTPRequestHandler):
            hub = self
            do_GET = do_HEAD = _answer  # noqa: N815 (names that http.server calls)
            log_message = _log

        return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def _log(handler: BaseHTTPRequestHandler, *_: object) -> None:
    handler.hub.asked.append(f"{handler.command} {handler.path}")


def _answer(handler: BaseHTTPRequestHandler) -> None:
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
    handler: BaseHTTPRequestHandler,
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
