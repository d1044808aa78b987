"""The server: what each address answers, and how it runs beside the thread that owns the networks.

An answer is JSON, a picture, a file of the page, or a stream of server-sent events. What goes wrong
is one line under "message". Needs starlette.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
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
    MOST_UPLOAD,
    Json,
    RequestError,
    number_in_text,
    parse_json,
    text,
    whole_number,
)
from page.connections import running
from page.decoding import Decoding
from page.form import CommandForm
from page.nearest import show_nearest
from page.originals import show_tokens, show_validation, shrink
from page.reading import MOST_IMAGES, read_decoding, read_tokens
from page.refill import refill
from page.runs import RunReader
from page.safety import Guard
from page.worker import Job, Stream, Worker, compressed, message_of
from utils.errors import UserError
from utils.version import VERSION

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
MOST_READ = 64 << 20  # bytes of a body that are read, though not kept

Answer = Callable[[Request], Awaitable[Response]]


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
    answers, runs = _Answers(page, worker), page.runs
    shown = {
        "/api/page": answers.page,
        "/api/models": answers.models,
        "/api/models/{model}": answers.model,
        "/api/models/{model}/validation/{index}": answers.validation,
        "/api/runs": _reads(runs.described),
        "/api/runs/{run}/rows/{stage}": answers.rows,
        "/api/runs/{run}/settings/{stage}": _reads(runs.settings),
        "/api/runs/{run}/preview/{stage}/{step}": _reads(runs.preview),
        "/api/runs/{run}/reconstructions": _reads(runs.reconstructions),
        "/api/runs/{run}/sweep": _reads(runs.sweep),
        "/api/runs/{run}/sweep/{row}": _reads(runs.strip),
    }
    asked = {
        "/api/models/{model}/upload": answers.upload,
        "/api/decode": answers.decode,
        "/api/cell": answers.cell,
        "/api/tokens": answers.tokens,
        "/api/nearest": answers.nearest,
        "/api/refill/{model}": answers.refill,
    }
    routes = [Route("/", _file("index.html"))]
    routes += [Route(f"/{path.name}", _file(path.name)) for path in sorted(STATIC.iterdir())]
    for method, named in (("GET", shown), ("POST", asked)):
        routes += [Route(p, _with_errors(page, a), methods=[method]) for p, a in named.items()]
    return Starlette(routes=routes)


def _file(name: str) -> Answer:
    """Answer with a file of the page."""
    path = STATIC / name

    async def answer(request: Request) -> Response:
        return Response(path.read_bytes(), media_type=TYPES[path.suffix])

    return answer


def _with_errors(page: Page, answer: Answer) -> Answer:
    """Turn what `answer` raises into one line."""

    async def answer_or_error(request: Request) -> Response:
        try:
            return await answer(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # one request must not end the server
            status = error.status if isinstance(error, RequestError) else 400
            status = status if isinstance(error, UserError) else 500
            message = page.form.with_flags(message_of(error))
            return _Json({"message": message}, status, {"Connection": "close"})

    return answer_or_error


def _reads(read: Callable[..., Any]) -> Answer:
    """Answer with the picture or the data that `read` returns for the places in the address."""

    async def answer(request: Request) -> Response:
        names = request.path_params
        place = [_number(request, n) if n in ("step", "row") else names[n] for n in names]
        found = await run_in_threadpool(read, *place)
        return Response(found, media_type="image/png") if type(found) is bytes else _Json(found)

    return answer


class _Json(Response):
    """An answer in JSON; what is not valid Unicode (a folder's name may not be) is escaped."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write plain data."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class _Answers:
    """The answers under /api."""

    def __init__(self, page: Page, worker: Worker) -> None:
        self._page, self._worker = page, worker
        self._uploading = asyncio.Semaphore(1)  # a decoded upload may be large

    async def page(self, request: Request) -> Response:
        """Describe models and settings."""
        form = self._page.form
        return _Json(
            {
                "version": VERSION,
                "models": await self._models(),
                "sampling": [asdict(field) for field in form.sampling],
                "series": {name: asdict(field) for name, field in form.series.items()},
                "editing": {name: asdict(field) for name, field in form.editing.items()},
                "most_images": min(MOST_IMAGES, form.block_size),
                "most_upload": MOST_UPLOAD,
            }
        )

    async def models(self, request: Request) -> Response:
        """List the models."""
        return _Json(await self._models())

    async def _models(self) -> list[dict[str, str]]:
        files = await run_in_threadpool(self._page.catalog.files)
        return [{**names_of(file.path), "version": file.version} for file in files]

    async def model(self, request: Request) -> Response:
        """Open and describe a model."""
        model = request.path_params["model"]
        open_model, form = self._page.catalog.open, self._page.form
        return _Json(await self._on_worker(lambda: open_model(model).describe(form)))

    async def validation(self, request: Request) -> Response:
        """Show an image of the validation split."""
        index = _number(request, "index")
        return _Json(await self._on_worker(lambda: show_validation(self._open(request), index)))

    async def upload(self, request: Request) -> Response:
        """Bring an image file, or the part of it that is wanted, to the model's size."""
        tokenizer = (await self._on_worker(lambda: self._open(request))).model.tokenizer
        data = await _body(request, MOST_UPLOAD)
        async with self._uploading:
            return _Json(await run_in_threadpool(shrink, data, request.query_params, tokenizer))

    async def decode(self, request: Request) -> Response:
        """Decode images, and send every step as an event."""
        values = await _json(request)
        tab = text(values, "tab")
        decoding = await self._on_worker(lambda: self._decoding(values))
        stream = Stream(self._worker, self._page.form.with_flags)
        job = Job(tab, decoding.events, stream.send_soon)
        self._worker.submit(job)
        events, headers = stream.read(job), {"X-Accel-Buffering": "no"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            events, headers = compressed(events), {**headers, "Content-Encoding": "gzip"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def cell(self, request: Request) -> Response:
        """Tell how a step of a decoding decides about a cell."""
        values = await _json(request)

        def choice() -> dict[str, Any]:
            decoding = self._decoding(values)
            cells = decoding.opened.model.transformer.config.seq_len
            return decoding.choice(whole_number(values, "cell", 0, cells - 1))

        return _Json(await self._on_worker(choice))

    async def tokens(self, request: Request) -> Response:
        """Show an image to edit as the tokenizer sees it."""
        values = await _json(request)
        return _Json(await self._on_worker(lambda: show_tokens(values, self._opened(values))))

    async def nearest(self, request: Request) -> Response:
        """Show the training images nearest to an image."""
        values = await _json(request)

        def show() -> dict[str, Any]:
            opened = self._opened(values)
            return show_nearest(opened, read_tokens(values, opened))

        return _Json(await self._on_worker(show))

    async def refill(self, request: Request) -> Response:
        """Say what the form must hold to make a picture again."""
        chosen, page = request.path_params["model"], self._page
        data = await _body(request, MOST_UPLOAD)
        return _Json(await self._on_worker(lambda: refill(data, chosen, page.catalog, page.form)))

    def _decoding(self, values: Json) -> Decoding:
        """Read what a tab wants decoded."""
        return read_decoding(values, self._opened(values), self._page.form)

    def _opened(self, values: Json) -> OpenModel:
        """Open the model that a tab names."""
        version = text(values, "version") if "version" in values else ""
        return self._page.catalog.open(text(values, "model"), version)

    async def rows(self, request: Request) -> Response:
        """Send the numbers of a training that the tab does not have yet."""
        run, stage = request.path_params["run"], request.path_params["stage"]
        query = request.query_params
        version, known = (number_in_text(query.get(n, "0"), n) for n in ("version", "known"))
        rows = await run_in_threadpool(self._page.runs.rows, run, stage, version, known)
        return _Json(rows)

    def _open(self, request: Request) -> OpenModel:
        """Open the model in an address."""
        version = request.query_params.get("version", "")
        return self._page.catalog.open(request.path_params["model"], version)

    async def _on_worker(self, function: Callable[[], Any]) -> Any:
        """Let the thread that owns the networks call a function."""
        future: Future[Any] = self._worker.call(function)
        return await asyncio.wrap_future(future)


async def _json(request: Request) -> Json:
    """Read the JSON object that a request sends; errors as in `parse_json`."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise RequestError("the request must be application/json", 415)
    return parse_json(await _body(request, MOST_JSON))


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


def _number(request: Request, name: str) -> int:
    """Take a whole number out of the path of an address; errors as in `number_in_text`."""
    return number_in_text(request.path_params[name], name)
