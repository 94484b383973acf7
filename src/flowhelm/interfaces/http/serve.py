"""`flowhelm serve`: restoring over HTTP, by one prior on one device.

What a request may say is read off the signatures, as for the command line; the numbers are those of `flowhelm restore`. A client
may name no file of this machine: what an operator reads (a mask, a kernel) is uploaded.
"""

import json
import secrets
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import numpy as np
from PIL import Image

from ... import __version__, operators
from ...app.batch.description import parsed
from ...app.batch.request import check, object_of
from ...app.errors import BadInput, TooLarge, nearest
from ...app.files import pictures as images
from ...app.models import opening as models
from ...app.options import cards
from ...app.options.signature import bind, options, pick
from ...app.options.words import flags
from ...app.restore.presets import preset
from ...app.restore.restorer import Ready, Restored, Restorer, plainly
from ...cards import METHODS
from ...memory import is_short
from ...step import Diverged, Step

try:
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request, Response
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
    from pydantic import BaseModel, Field
    from starlette.datastructures import UploadFile
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise BadInput(f"serve needs FastAPI and uvicorn ({error.name} is missing): pip install 'flowhelm[ui]'") from error

FILES = tuple(sorted({o.name for f in operators.ALL for o in options(f).values() if Path in o.types}))
"""Options that are uploaded."""
_OWN = tuple(name for name in options(Restorer.prepare) if name != "picture")
STEPS = 1000
UPLOAD_SECONDS = 60.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Limits(NamedTuple):
    """What one request may ask for, and how many may wait for the device (beyond the one that has it)."""

    megabytes: float = 64.0
    megapixels: float = 16.0
    seconds: float = 600.0
    waiting: int = 8


class Problem(BaseModel):
    """Of every refusal."""

    detail: str = Field(description="One sentence that says what is wrong and what to do.")


class Part(BaseModel):
    """An operator or a method."""

    title: str
    card: str
    options: dict[str, Any] = Field(description="JSON schema of an object.")
    files: list[str] = Field(description="Options that are uploaded, as form files of these names.")


class Health(BaseModel):
    status: str
    version: str
    prior: str
    device: str
    running: int
    waiting: int


class Run(BaseModel):
    """A restored picture and all that is known of it."""

    picture: str = Field(description="The PNG, base64.")
    settings: dict[str, Any]
    result: dict[str, Any] = Field(
        description="sha256 (of the numbers, as `flowhelm restore` has it), residual, ..., scores"
    )


class _Over(Exception):
    """The client is gone, or the time is."""


REFUSALS: Mapping[int, str] = {
    400: "The picture cannot be read, or the form is not one.",
    401: "The token is missing or wrong.",
    403: "The request comes from another site's page, or names another host.",
    408: "The upload took too long.",
    413: "The upload has too many bytes or pixels, or the result would.",
    422: "A setting is unknown or wrong.",
    429: "Too many requests wait already; see Retry-After.",
    500: "A fault of the program; its log has the details.",
    503: "The run took too long, or there is not enough memory for it.",
}
_SETTINGS = "Settings as JSON; the same names serve as form fields, options of operator and method among them."


def serve(
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    prior: str = "photos",
    device: str = "cpu",
    threads: int | None = None,
    token: str | None = None,
    limits: Limits = Limits(),
    model: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serves until it is stopped.

    Raises:
        BadInput: a host beyond this machine without a token; or what is wrong with the prior.
    """
    loopback = _is_loopback(host)
    if not loopback and not token:
        raise BadInput(
            f"--host {host}: others could use this machine then; give a secret by --token or, better, in FLOWHELM_TOKEN"
        )
    restorer = Restorer(prior, device, threads, limit=round(limits.megapixels * 1e6), **(model or {}))
    shown = f"[{host}]" if ":" in host else host
    say(f"restoring with {Path(prior).name} on {restorer.device} at http://{shown}:{port} (its page: /docs)")
    made = application(restorer, token=token, limits=limits, loopback=loopback)
    uvicorn.run(made, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=3)


def application(
    restorer: Restorer, *, token: str | None = None, limits: Limits = Limits(), loopback: bool = True
) -> FastAPI:
    """The application, for any ASGI server.

    Args:
        token: that each request but /health must bear. loopback: answer requests for this machine by its own name only, so that no
            page of another site reaches it by a name of its own (DNS rebinding).
    """
    turn, stopping = anyio.Lock(), threading.Event()
    inside = 0

    async def asked(request: Request) -> None:
        host = request.headers.get("host", "")
        if loopback and token is None and urlsplit(f"//{host}").hostname not in _LOOPBACK:
            raise HTTPException(403, f"this server is for this machine only, not for {host!r}; use http://127.0.0.1")
        origin = request.headers.get("origin")
        if request.method != "GET" and origin is not None and urlsplit(origin).netloc != host:
            raise HTTPException(403, f"a page of {origin!r} may not use this server; call it from a program")

    async def known(bearer: HTTPAuthorizationCredentials | None = Depends(HTTPBearer(auto_error=False))) -> None:
        given = "" if bearer is None else bearer.credentials
        if token is not None and not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        stopping.set()

    app = FastAPI(
        title="flowhelm", version=__version__, lifespan=life, dependencies=[Depends(asked)],
        summary="Restore pictures with a pre-trained flow-matching or diffusion model.",
    )  # fmt: skip

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": REFUSALS[500]}, 500)

    app.add_middleware(_Bounded, most=round(limits.megabytes * 1e6))

    @app.get("/health", response_model=Health, responses=_refusals(403), summary="Whether it is there, and how busy.")
    async def health() -> Health:
        return Health(
            status="ok", version=__version__, prior=Path(restorer.prior).stem, device=restorer.device,
            running=min(inside, 1), waiting=max(inside - 1, 0),
        )  # fmt: skip

    @app.get(
        "/operators", response_model=dict[str, Part], dependencies=[Depends(known)], responses=_refusals(401, 403),
        summary="What can have been done to a picture.",
    )  # fmt: skip
    async def operators_() -> dict[str, Part]:
        return _parts("operator", operators.ALL)

    @app.get(
        "/methods", response_model=dict[str, Part], dependencies=[Depends(known)], responses=_refusals(401, 403),
        summary="How it can be restored.",
    )  # fmt: skip
    async def methods() -> dict[str, Part]:
        return _parts("method", METHODS)

    @app.post(
        "/restore", dependencies=[Depends(known)], response_class=Response, summary="Restore a picture.",
        responses={200: _answer(), **_refusals(*REFUSALS)}, openapi_extra={"requestBody": _body()},
        description="Answers with a PNG and, in the header X-Flowhelm-Run, the run's facts as JSON; to `Accept: application/json` with "
        "both in one object. A client that leaves stops its run.",
    )  # fmt: skip
    async def restore(request: Request) -> Response:
        nonlocal inside
        if inside > limits.waiting:
            raise HTTPException(429, f"{limits.waiting} requests wait already; try again later", {"Retry-After": "10"})
        inside += 1
        try:
            fields, uploads = await _form(request)
            # prepared before its turn, so that what is wrong is said at once
            ready = await anyio.to_thread.run_sync(_prepared, restorer, fields, uploads)
            made = await _carried_out(request, restorer, ready, turn, stopping, limits.seconds)
        except ClientDisconnect:
            made = None
        finally:
            inside -= 1
        if made is None:
            return Response(status_code=499)  # nobody reads it
        return await anyio.to_thread.run_sync(_answered, made, request.headers.get("accept", ""))

    return app


async def _form(request: Request) -> tuple[dict[str, str], dict[str, bytes]]:
    """Fields and files of a request; each name once."""
    try:
        with anyio.fail_after(UPLOAD_SECONDS):
            async with request.form(max_files=1 + len(FILES), max_fields=100) as form:
                names = [name for name, _ in form.multi_items()]
                for name in names:
                    if names.count(name) > 1:
                        raise HTTPException(422, f"{name!r} is given twice; give it once")
                files = {name: each for name, each in form.items() if isinstance(each, UploadFile)}
                uploads = {name: await each.read() for name, each in files.items()}
                return {name: str(each) for name, each in form.items() if name not in files}, uploads
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {UPLOAD_SECONDS:g} seconds; send it again") from None


def _prepared(restorer: Restorer, fields: Mapping[str, str], uploads: Mapping[str, bytes]) -> Ready:
    """Everything but the long work. Raises HTTPException."""
    try:
        settings = _settings(restorer.prior, fields)
        for name in uploads:
            if name not in ("picture", *FILES):
                raise BadInput(f"there is no file {name!r}; {nearest(name, ('picture', *FILES))}")
        if "picture" not in uploads:
            raise BadInput("expected the picture as the form file 'picture', got none")
        given = {name: _file(name, data, restorer.limit) for name, data in uploads.items() if name != "picture"}
        settings["operator_options"] = {**settings.get("operator_options", {}), **given}
        grey = settings["operator"] == "colorize" and not settings.get("simulate")
        picture = _picture("the picture", uploads["picture"], 1 if grey else 3, restorer.limit)
        return restorer.prepare(picture, **settings)
    except TooLarge as error:
        raise HTTPException(413, str(error)) from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    except (MemoryError, RuntimeError) as error:
        _tell_memory(error)
        raise


def _settings(prior: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `Restorer.prepare`, of the JSON in the field `settings` and of the other fields."""
    words = {name: text for name, text in fields.items() if name != "settings"}
    try:
        given = parsed(fields.get("settings") or "{}")
    except ValueError as error:
        raise BadInput(f"settings: expected JSON ({error})") from error
    schema = _schema()
    check(given, schema, "settings")
    if both := sorted(set(given) & set(words)):
        raise BadInput(f"{both[0]!r} stands in the settings and as a field; give it once")
    operator = words.pop("operator", given.get("operator", "deblur"))
    builder = pick("operator", operator, operators.ALL)
    own = _own({name: words.pop(name) for name in _OWN if name in words})
    whole = {**given, **own, "operator": operator}
    usual = models.METHOD if models.is_pipeline(prior) else preset(operator, 1.0)[0]
    parts = {"operator": builder, "method": pick("method", whole.get("method") or usual, METHODS)}
    for part, function in parts.items():
        check(whole.setdefault(f"{part}_options", {}), _options(function), f"settings: {part}_options")
    table = flags(parts, [*schema["properties"], "settings"])
    for name, text in words.items():
        if (key := name.replace("_", "-")) not in table:
            raise BadInput(f"there is no field {name!r}; {nearest(name, [*schema['properties'], *table])}")
        part, option = table[key]
        if Path in option.types:
            raise BadInput(f"{name}: a file of the server is not read; upload it as the form file {option.name!r}")
        if option.name in whole[f"{part}_options"]:
            raise BadInput(f"{name!r} is given twice; give it once")
        whole[f"{part}_options"] = whole[f"{part}_options"] | {option.name: text}
    if (steps := whole.get("steps")) is not None and steps > STEPS:
        raise BadInput(f"steps: expected at most {STEPS}, got {steps}")
    return whole


def _own(fields: Mapping[str, str]) -> dict[str, Any]:
    try:
        with plainly():
            bound = bind(Restorer.prepare, {"picture": "", **fields})
            return {name: bound[name] for name in fields}
    except BadInput as error:
        raise BadInput(str(error).removeprefix(f"{Restorer.prepare.__name__}: ")) from error


def _picture(name: str, data: bytes, channels: int, limit: int) -> images.Picture:
    try:
        return images.decode(data, name, channels=channels, limit=limit)
    except BadInput as error:
        large = isinstance(error.__cause__, Image.DecompressionBombError)
        raise HTTPException(413 if large else 400, str(error)) from error


def _file(name: str, data: bytes, limit: int) -> Image.Image | np.ndarray:
    """An uploaded mask or kernel: a picture, or an array of NumPy (never unpickled)."""
    if not data.startswith(b"\x93NUMPY"):
        _picture(name, data, 1, limit)  # says what is wrong, and holds the limit before decoding
        return Image.open(BytesIO(data))
    try:
        return np.load(BytesIO(data), allow_pickle=False, max_header_size=10_000)
    except Exception as error:  # on damaged bytes NumPy raises nearly anything
        reason = " ".join(str(error).split())
        raise HTTPException(400, f"{name}: the array cannot be read ({reason}); save it again") from error


async def _carried_out(
    request: Request, restorer: Restorer, ready: Ready, turn: anyio.Lock, stopping: threading.Event, seconds: float
) -> Restored | None:
    """The loop, when it is this request's turn; None if the client has left."""
    gone, ends, made = threading.Event(), 0.0, None

    def watch(_: Step) -> None:
        if gone.is_set() or stopping.is_set() or time.monotonic() > ends:
            raise _Over

    def work() -> Restored | Exception:
        try:
            return restorer.run(ready, watch)
        except Exception as error:  # told below: a group of tasks would wrap it
            return error

    async with anyio.create_task_group() as group:

        async def leave() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone.set()
            group.cancel_scope.cancel()

        group.start_soon(leave)
        async with turn:
            ends = time.monotonic() + seconds
            made = await anyio.to_thread.run_sync(work)  # waits for the thread even if cancelled: it holds the device
        group.cancel_scope.cancel()
    if gone.is_set():
        return None
    if isinstance(made, _Over):
        raise HTTPException(503, f"stopped after {seconds:g} seconds; choose fewer steps or a smaller picture")
    if isinstance(made, BadInput | Diverged):
        raise HTTPException(422, str(made))
    if isinstance(made, Exception):
        _tell_memory(made)
        raise made
    return made


def _tell_memory(error: Exception) -> None:
    """Raises a refusal if memory is what was missing; any other error is a fault of the program."""
    if is_short(error):
        raise HTTPException(
            503, "there is not enough memory for this picture; send a smaller one, or give tile=512"
        ) from error


def _answered(made: Restored, accept: str) -> Response:
    settings = {**made.settings, "prior": Path(made.settings["prior"]).stem}  # no path of this machine
    settings.pop("photo")
    result = {
        "sha256": made.sha256, "residual": made.residual, "evaluations": made.evaluations, "seconds": made.seconds, **made.scores,
    }  # fmt: skip
    if "application/json" in accept and "image/png" not in accept:
        whole = Run(picture=b64encode(made.png()).decode(), settings=settings, result=result)
        return Response(whole.model_dump_json(), media_type="application/json")
    facts = {name: settings[name] for name in ("operator", "method", "std", "seed", "prior")}
    header = {"X-Flowhelm-Run": json.dumps(facts | {"steps": len(settings["times"]) - 1} | result)}
    return Response(made.png(), media_type="image/png", headers=header)


class _Bounded:
    """Refuses a body of too many bytes: by its header before it is read, or as soon as it is too long."""

    def __init__(self, app: ASGIApp, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = HTTPException(413, f"the upload is larger than {self.most / 1e6:g} MB; send a smaller picture")
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or int(told) > self.most:
            await JSONResponse({"detail": refusal.detail}, 413)(scope, receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                raise refusal
            return message

        await self.app(scope, bounded, send)


def _parts(part: str, functions: Sequence[Callable[..., Any]]) -> dict[str, Part]:
    return {
        f.__name__: Part(
            title=cards.title(f), card=cards.text(part, f), options=_options(f), files=[o for o in FILES if o in options(f)]
        )
        for f in functions
    }  # fmt: skip


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    """Schema of its options, but for those that are uploaded."""
    whole = object_of(function)
    properties = {name: each for name, each in whole["properties"].items() if name not in FILES}
    return {**whole, "properties": properties, "required": [name for name in whole["required"] if name not in FILES]}


def _schema() -> dict[str, Any]:
    """Of the settings as JSON."""
    known = object_of(Restorer.prepare)["properties"]
    own = {name: known[name] for name in _OWN}
    own["method"] = {
        "enum": [*(f.__name__ for f in METHODS), None],
        "default": None,
        "description": own["method"]["description"],
    }
    either = {
        f"{part}_options": {"type": "object", "default": {}, "description": f"See /{part}s."}
        for part in ("operator", "method")
    }
    operator = {
        "enum": [f.__name__ for f in operators.ALL],
        "default": "deblur",
        "description": "What was done to it: see /operators.",
    }
    return {
        "type": "object",
        "properties": {"operator": operator, **own, **either},
        "required": [],
        "additionalProperties": False,
    }


def _body() -> dict[str, Any]:
    """The multipart form, for OpenAPI."""
    schema, binary = _schema(), {"type": "string", "contentMediaType": "application/octet-stream"}
    settings = {**schema, "description": _SETTINGS}
    fields = {name: each for name, each in schema["properties"].items() if not name.endswith("_options")}
    uploads = {
        name: {**binary, "description": next(options(f)[name].help for f in operators.ALL if name in options(f))}
        for name in FILES
    }
    form = {
        "type": "object",
        "properties": {
            "picture": {**binary, "description": "JPEG, PNG, WebP or TIFF."},
            **uploads,
            "settings": settings,
            **fields,
        },
        "required": ["picture"],
        "additionalProperties": {"type": "string", "description": "An option of the operator or the method, by name."},
    }
    encoding = {"settings": {"contentType": "application/json"}}
    return {"required": True, "content": {"multipart/form-data": {"schema": form, "encoding": encoding}}}


def _answer() -> dict[str, Any]:
    header = {"description": "The run's facts as JSON: sha256, residual, ...", "schema": {"type": "string"}}
    return {
        "model": Run,
        "description": "The restored picture.",
        "headers": {"X-Flowhelm-Run": header},
        "content": {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}},
    }


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": REFUSALS[status]} for status in statuses}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
