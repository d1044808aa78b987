"""Who may ask the server for something: checks of every request, before anything else sees it.

- The Host must name this machine, so that a foreign page cannot reach the server under a name of
  its own (DNS rebinding).
- A request with effects must come from our own page: its Origin is the Host.
- Where the server listens to other machines, every request needs the token from the URL that was
  printed. The first one exchanges it for a cookie.

Every answer forbids the browser to load anything from elsewhere or to show the page in a frame.
"""

import asyncio
import ipaddress
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
COOKIE_DAYS = 7
BODY_SECONDS = 5.0  # in which the body of a refused request is read


def is_loopback(host: str) -> bool:
    """Whether a server on this host can be reached only from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets the requests through that may come in; an ASGI application around another one."""

    def __init__(self, app: App, host: str, names: frozenset[str], token: str | None) -> None:
        """Guard an application.

        Args:
            app: the application.
            host: where the server listens.
            names: of this machine, that a request may call it.
            token: what every request must show; None where only this machine can ask.
        """
        self._app = app
        self._names = LOOPBACK | names | {host}
        self._takes_addresses = not is_loopback(host)
        self._token = token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it in one line; what fails is logged."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        try:
            if instead := self._instead(scope, headers):
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_read_to_end(receive), BODY_SECONDS)
                await _answer(send, *instead)
            else:
                await self._app(scope, receive, _with_headers(send))
        except Exception:  # one request must not end the server
            log.exception("a request failed")

    def _instead(
        self, scope: Message, headers: dict[str, str]
    ) -> tuple[int, str, dict[str, str]] | None:
        """Return status, text and headers of what the application does not answer itself."""
        if refusal := self._refusal(scope["method"], scope["path"], headers):
            return 403, refusal, {}
        if self._token is None:
            return None
        name = f"maskgit_{scope['server'][1]}"  # cookies are shared by all ports
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and _is_equal(shown, self._token):
            cookie = f"{name}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            cookie += f"; Max-Age={COOKIE_DAYS * 24 * 3600}"
            return 303, "", {"Location": "/", "Set-Cookie": cookie}
        if _is_equal(_cookie(headers.get("cookie", ""), name), self._token):
            return None
        return 401, "open the address with the token that the server printed", {}

    def _refusal(self, method: str, path: str, headers: dict[str, str]) -> str | None:
        """Say why a request is refused; None if it is not."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return f"Host {host[:60]!r} is not this server; use the address that it printed"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return f"Origin {origin[:60]!r} may not use this server"
        # Browsers say whether another site asks; only the page itself may be opened by a link.
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") and (method != "GET" or path != "/"):
            return "another site may not use this server"
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host names this machine; the port may be that of a tunnel."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._takes_addresses  # an address cannot be made to mean another machine


def new_token() -> str:
    """Draw a token that nobody can guess."""
    return secrets.token_urlsafe(24)


def _cookie(header: str, name: str) -> str:
    """Return the value of a cookie; empty if there is none.

    Ours needs no quotes. http.cookies reads them in a time that grows with the square of their
    length (CVE-2024-7592).
    """
    pairs = (pair.strip().partition("=") for pair in header.split(";"))
    return next((value for found, _, value in pairs if found == name), "")


def _is_equal(shown: str, token: str) -> bool:
    """Compare in constant time."""
    return secrets.compare_digest(shown.encode(), token.encode())


def _with_headers(send: Send) -> Send:
    """Add the headers of every answer."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", ()), *more]
        await send(message)

    return send_more


async def _read_to_end(receive: Receive) -> None:
    """Read the body of a request: a browser hears an answer only after it has sent everything."""
    while (await receive()).get("more_body"):
        pass


async def _answer(send: Send, status: int, text: str, more: dict[str, str]) -> None:
    """Send a short answer."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "Connection": "close", **more}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    with_headers = _with_headers(send)
    await with_headers({"type": "http.response.start", "status": status, "headers": pairs})
    await with_headers({"type": "http.response.body", "body": text.encode()})
