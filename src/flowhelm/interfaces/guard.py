"""Which requests a server of this machine answers: the page of `flowhelm ui` and `flowhelm serve` have the same guard.

A page of the web that is open in a browser beside them can send requests to this machine; and a name that an attacker points at
127.0.0.1 (DNS rebinding) makes his page one of the same origin. So every request is looked at before anything else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

REMEDY = "use the address that was printed when the server was started"


def loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def refusal(path: str, headers: Mapping[str, str], local: bool) -> str | None:
    """Why a request is refused, or None.

    Args:
        headers: with names in small letters. local: the server is known by this machine's own names only.
    """
    host = headers.get("host", "").lower()
    if local and not loopback(_name(host)):
        return f"this server is for this machine only, and not known as {host!r}; {REMEDY}"
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != host:
        return f"a page of {origin!r} may not send requests here; {REMEDY}"
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        return f"a page of another site may not send requests here; {REMEDY}"
    return None


class Guard:
    """ASGI middleware: refuses with status 403 and one sentence.

    Args:
        local: as for `refusal`. answer: makes the answer of a sentence and a status. refuses: like `refusal`, with more reasons.
        headers: are added to every answer.
    """

    def __init__(
        self,
        app: Any,
        *,
        local: bool,
        answer: Callable[[str, int], Any],
        refuses: Callable[[str, Mapping[str, str], bool], str | None] = refusal,
        headers: Mapping[str, str] | None = None,
    ):
        self.app, self.local, self.answer, self.refuses = app, local, answer, refuses
        self.headers = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        async def more(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self.headers]}
            await send(message)

        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":  # neither server has another kind
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            reason = self.refuses(scope["path"], headers, self.local)
            await (self.app if reason is None else self.answer(reason, 403))(scope, receive, more)


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # an address that is none
        return ""
