"""What a browser may ask of the page.

A page of the web that is open beside this one can send requests to it. gradio says who may *read* the answers (CORS), but carries
the request out; and a name that an attacker points at 127.0.0.1 (DNS rebinding) makes his page one of the same origin. So every
request is looked at first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

from . import loopback

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # gradio's page is made of inline scripts
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
"""Nothing is fetched from elsewhere, whatever the page is made of."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def refusal(path: str, headers: Mapping[str, str], local: bool) -> str | None:
    """Why a request is refused, or None.

    Args:
        headers: with names in small letters. local: the page listens on loopback only.
    """
    host = headers.get("host", "").lower()
    if local and not loopback(_name(host)):
        return f"this page is for this machine only, and not known as {host!r}; open it by the address that was printed"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin.lower()).netloc != host:
        return f"a page of {origin!r} may not send requests here; open the page by its own address"
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        return "a page of another site may not send requests here; open the page by its own address"
    asked = unquote(path).lower()
    if "/proxy=" in asked or "/file=http:" in asked or "/file=https:" in asked:  # gradio would fetch it for the caller
        return "this page fetches nothing from elsewhere"
    return None


class Guard:
    """ASGI middleware: refuses with 403 and one sentence, and says what a page of this server may load."""

    def __init__(self, app: Any, *, local: bool) -> None:
        self.app, self.local = app, local

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        reason = refusal(scope["path"], headers, self.local)
        if scope["type"] != "http":  # the page has no other kind
            await send({"type": "websocket.close", "code": 1008})
        elif reason is not None:
            text = reason.encode("utf-8", "replace")
            told = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(text)), **HEADERS}
            await send({"type": "http.response.start", "status": 403, "headers": _raw(told)})
            await send({"type": "http.response.body", "body": text})
        else:
            await self.app(scope, receive, _telling(send))


def _telling(send: Send) -> Send:
    async def each(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_raw(HEADERS)]}
        await send(message)

    return each


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # an address that is none
        return ""


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
