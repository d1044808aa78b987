"""The server: what each address answers, and how it runs beside the thread that owns the networks.

What a request asks for is one mapping: the JSON object in its body, its query, and the names in its
address. An answer is JSON, a picture, a file of the page, or a stream of server-sent events. What
goes wrong is one line under "message". Needs starlette.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from page.catalog import Catalog, OpenModel, names_of
from page.checks import (
    MOST_JSON,
    MOST_NUMBER,
    MOST_UPLOAD,
    Json,
    RequestError,
    parse_json,
    text,
    whole_number,
)
from page.connections import running
from page.form import CommandForm
from page.nearest_tokens import show_nearest
from page.originals import show_tokens, show_validation, shrink
from page.reading import MOST_IMAGES, read_decoding, read_tokens
from page.run_reader import RunReader
from page.safety import Guard
from page.worker import Worker, compressed, message_of, stream
from utils.errors import UserError
from utils.plain import NOTHING
from utils.version import VERSION

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
MOST_READ = 64 << 20  # bytes of a body that are read, though not kept


@dataclass(frozen=True)
class Page:
    """What the server serves."""

    catalog: Catalog
    runs: RunReader
    form: CommandForm


def serve(
    page: Page, listening: socket.socket, host: str, names: frozenset[str], token: str | None
) -> None:
    """Serve the page until the process is asked to end; this thread owns the networks.

    Args:
        page: what is served.
        listening: the socket.
        host: where it listens.
        names: of this machine, that a browser may call it.
        token: what every request must show; None for none.
    """
    worker = Worker()
    app = Guard(application(page, worker), host, names, token)
    with running(app, listening) as is_over:
        try:
            worker.run(is_over)
        finally:
            worker.close()


def application(page: Page, worker: Worker) -> Starlette:
    """Make the application: a route per address."""
    answers = _Answers(page, worker)
    replies: dict[str, Reply] = {
        "GET /api/page": partial(answers.read, lambda _: _described(page)),
        "GET /api/models": partial(answers.read, lambda _: _models(page.catalog)),
        **{f"GET {path}": partial(answers.read, partial(a, page.runs)) for path, a in RUNS.items()},
        **{address: partial(answers.compute, answer) for address, answer in COMPUTED.items()},
        "POST /api/models/{model}/upload": answers.upload,
        "POST /api/refill/{model}": answers.refill,
        "POST /api/decode": answers.decode,
    }
    files = {"/": "index.html", **{f"/{path.name}": path.name for path in STATIC.iterdir()}}
    routes = [Route(path, _file(STATIC / name)) for path, name in files.items()]
    for address, reply in replies.items():
        method, path = address.split()
        routes.append(Route(path, _with_errors(page.form, reply), methods=[method]))
    return Starlette(routes=routes)


def _described(page: Page) -> dict[str, Any]:
    """Describe models and settings."""
    form = page.form
    return {
        "version": VERSION,
        "models": _models(page.catalog),
        "sampling": form.sampling,
        "series": form.series,
        "editing": form.editing,
        "most_images": min(MOST_IMAGES, form.block_size),
        "most_upload": MOST_UPLOAD,
    }


def _models(catalog: Catalog) -> list[dict[str, str]]:
    """List the models."""
    return [{**names_of(file.path), "version": file.version} for file in catalog.files()]


def _number(ask: Json, name: str) -> int:
    """Take a whole number out of a request; 0 if it is missing."""
    return whole_number(ask, name, 0, MOST_NUMBER, default=0)


# What is read of runs. An answer is plain data for JSON, or the bytes of a PNG.
RUNS: dict[str, Callable[[RunReader, Json], Any]] = {
    "/api/runs": lambda runs, _: runs.described(),
    "/api/runs/{run}/rows/{stage}": lambda runs, ask: runs.rows(
        ask["run"], ask["stage"], _number(ask, "version"), _number(ask, "known")
    ),
    "/api/runs/{run}/settings/{stage}": lambda runs, ask: runs.settings(ask["run"], ask["stage"]),
    "/api/runs/{run}/preview/{stage}/{step}": lambda runs, ask: runs.preview(
        ask["run"], ask["stage"], _number(ask, "step")
    ),
    "/api/runs/{run}/reconstructions": lambda runs, ask: runs.reconstructions(ask["run"]),
    "/api/runs/{run}/sweep": lambda runs, ask: runs.sweep(ask["run"]),
    "/api/runs/{run}/sweep/{row}": lambda runs, ask: runs.strip(ask["run"], _number(ask, "row")),
}
# What the thread that owns the networks answers, with the model that is asked for.
COMPUTED: dict[str, Callable[[CommandForm, Json, OpenModel], Any]] = {
    "GET /api/models/{model}": lambda form, _, opened: opened.describe(form),
    "GET /api/models/{model}/validation/{index}": lambda _, ask, opened: show_validation(
        opened, _number(ask, "index")
    ),
    "POST /api/cell": lambda form, ask, opened: read_decoding(ask, opened, form).choice(ask),
    "POST /api/tokens": lambda _, ask, opened: show_tokens(ask, opened),
    "POST /api/nearest": lambda _, ask, opened: show_nearest(opened, read_tokens(ask, opened)),
}
Reply = Callable[[Request], Awaitable[Any]]


class _Answers:
    """The answers under /api."""

    def __init__(self, page: Page, worker: Worker) -> None:
        self._page, self._worker = page, worker
        self._uploading = asyncio.Semaphore(1)  # a decoded upload may be large

    async def read(self, answer: Callable[[Json], Any], request: Request) -> Any:
        """Let a thread of the server answer."""
        return await run_in_threadpool(answer, await _asked(request))

    async def compute(
        self, answer: Callable[[CommandForm, Json, OpenModel], Any], request: Request
    ) -> Any:
        """Let the thread that owns the networks answer."""
        return await self._opened(answer, await _asked(request))

    async def upload(self, request: Request) -> Any:
        """Bring an image file, or the part of it that is wanted, to the model's size."""
        ask = {**request.query_params, **request.path_params}
        data = await _body(request, MOST_UPLOAD)
        opened = await self._opened(lambda _, __, opened: opened, ask)
        async with self._uploading:
            return await run_in_threadpool(shrink, data, ask, opened)

    async def refill(self, request: Request) -> Any:
        """Say what the form must hold to make a picture again."""
        data, chosen = await _body(request, MOST_UPLOAD), request.path_params["model"]
        form, catalog = self._page.form, self._page.catalog
        return await self._called(lambda: form.refill(data, chosen, catalog))

    async def decode(self, request: Request) -> Response:
        """Decode images, and send every step as an event."""
        ask = await _asked(request)
        tab = text(ask, "tab")
        decoding = await self._opened(
            lambda form, ask, opened: read_decoding(ask, opened, form), ask
        )
        events = stream(self._worker, tab, decoding.events(), self._page.form.with_flags)
        headers = {"X-Accel-Buffering": "no"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            events, headers = compressed(events), {**headers, "Content-Encoding": "gzip"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _opened(
        self, answer: Callable[[CommandForm, Json, OpenModel], Any], ask: Json
    ) -> Any:
        """Answer with the model that is asked for."""
        form, catalog = self._page.form, self._page.catalog
        model, version = ask.get("model", ""), ask.get("version", "")
        return await self._called(lambda: answer(form, ask, catalog.open(model, version)))

    async def _called(self, function: Callable[[], Any]) -> Any:
        """Let the thread that owns the networks call a function."""
        return await asyncio.wrap_future(self._worker.call(function))


def _file(path: Path) -> Reply:
    """Answer with a file of the page."""

    async def reply(request: Request) -> Response:
        return Response(path.read_bytes(), media_type=TYPES[path.suffix])

    return reply


def _with_errors(form: CommandForm, reply: Reply) -> Reply:
    """Write what `reply` returns; turn what it raises into one line."""

    async def reply_or_error(request: Request) -> Response:
        try:
            return _response(await reply(request))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # one request must not end the server
            status = getattr(error, "status", 400) if isinstance(error, UserError) else 500
            message = form.with_flags(message_of(error))
            return _response({"message": message}, status, {"Connection": "close"})

    return reply_or_error


def _response(found: Any, status: int = 200, headers: Mapping[str, str] = NOTHING) -> Response:
    """Send a PNG, or plain data as JSON; what is not valid Unicode is escaped."""
    if isinstance(found, Response):
        return found
    if isinstance(found, bytes):
        return Response(found, media_type="image/png")
    content = json.dumps(found, allow_nan=False, separators=(",", ":"))
    return Response(content, status, headers, "application/json")


async def _asked(request: Request) -> Json:
    """Read what a request asks for; errors as in `parse_json`."""
    body: Json = {}
    if request.method == "POST":
        data = await _body(request, MOST_JSON)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise RequestError("the request must be application/json", 415)
        body = parse_json(data)
    return {**body, **request.query_params, **request.path_params}


async def _body(request: Request, most: int) -> bytes:
    """Read the body of a request.

    A browser hears an answer only after it has sent everything. So a body that is somewhat too long
    is read to its end, and thrown away; one that is far too long is cut off.

    Raises:
        RequestError: if it is too long.
    """
    refusal = RequestError(f"the request has more than {most >> 20} MB", 413)
    size_sent = request.headers.get("content-length", "0")
    is_number = size_sent.isascii() and size_sent.isdecimal() and len(size_sent) <= 20
    if not is_number or int(size_sent) > MOST_READ:
        raise refusal
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_READ:
            raise refusal
        if size <= most:
            parts.append(part)
    if size > most:
        raise refusal
    return b"".join(parts)
