"""The application that restores over HTTP, for any ASGI server.

What a request may say is made from `PictureRequest` and the signatures, as for the command line; the numbers are those of
`flowhelm restore`. A client may name no file of this machine: what an operator reads (a mask, a kernel) is uploaded. What was uploaded is
decoded and restored in a process of its own, see `work`, which can be ended.
"""

import json
import secrets
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as Refusal
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.types import Message

from ... import __version__
from ...app.errors import BadInput, TooLarge, nearest, sentence
from ...app.models.request import ModelRequest
from ...app.options import cards
from ...app.run import Event
from ..guard import Guard
from ..worker import POLL, TRIES, Died, Fault, Worker
from .form import FILES, PARTS, body, request_of, schema_of, uploaded
from .page import HEADERS, page
from .request import Limits
from .work import Job, Made, Unreadable

UPLOAD_SECONDS, UPLOADS = 60.0, 200
"""That an upload may take, and how many there may be at a time."""
STOPPING = "the server is being stopped; send the request again when it is back"
DEFAULT = Limits.of({}, "serve")


class Problem(BaseModel):
    """Of every refusal."""

    detail: str = Field(description="One sentence that says what is wrong and what to do.")


class Part(BaseModel):
    """An operator or a method."""

    title: str = Field(description="What it does, in a line.")
    card: str = Field(description="What it does, needs and costs.")
    options: dict[str, Any] = Field(description="JSON schema of its options.")
    files: list[str] = Field(description="Options that are uploaded, as form files of these names.")


class Health(BaseModel):
    status: str = Field(description="ok.")
    version: str = Field(description="The version of flowhelm.")
    prior: str = Field(description="The prior that restores.")
    device: str = Field(description="Where it is computed.")
    running: int = Field(description="Requests that have the device: 0 or 1.")
    waiting: int = Field(description="Requests that wait for it.")


class Answer(BaseModel):
    """A restored picture and all that is known of it."""

    picture: str = Field(description="The PNG, base64.")
    settings: dict[str, Any] = Field(description="All settings of the run, defaults filled in.")
    result: dict[str, Any] = Field(
        description="sha256 (of the numbers, as `flowhelm restore` has it), residual, evaluations, seconds, and scores."
    )


class _Over(Exception):
    """The client is gone, the time is, or the server is to end."""


REFUSALS: Mapping[int, str] = {
    400: "The picture cannot be read, or the form is not one.",
    401: "The token is missing or wrong.",
    403: "The request comes from another site's page, or names another host.",
    408: "The upload took too long.",
    413: "The upload has too many bytes or pixels, or the result would.",
    422: "A setting is unknown or wrong.",
    429: "Too many requests wait already; see Retry-After.",
    500: "A fault of the program; its log has the details.",
    503: "The run took too long, there is not enough memory for it, or the server is being stopped.",
}
_HEADER = {"description": "The run's facts as JSON: sha256, residual, ...", "schema": {"type": "string"}}
_PNG = {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}}
_ANSWER = {
    "model": Answer, "description": "The restored picture.", "headers": {"X-Flowhelm-Run": _HEADER}, "content": _PNG,
}  # fmt: skip


def application(
    worker: Worker, model: ModelRequest, *, token: str | None = None, limits: Limits = DEFAULT, local: bool = True
) -> FastAPI:
    """The application. Its `state.stop()` answers all who wait and takes nothing more.

    Args:
        worker: restores, as `work.opened` does; model: by which prior.
        token: that each request but /health must bear. local: answer requests for this machine by its own names only, so that no page of
            another site reaches it by a name of its own (DNS rebinding); with a token that is not needed.
    """
    turn, stopping = anyio.Lock(), threading.Event()
    prior = model.prior
    uploading = inside = 0

    async def known(bearer: HTTPAuthorizationCredentials | None = Depends(HTTPBearer(auto_error=False))) -> None:
        given = "" if bearer is None else bearer.credentials
        if token is not None and not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        stopping.set()

    app = FastAPI(
        title="flowhelm", version=__version__, lifespan=life,
        summary="Restore pictures with a pre-trained flow-matching or diffusion model.",
        docs_url=None, redoc_url=None,  # pages that are fetched from elsewhere
    )  # fmt: skip
    app.state.stop = stopping.set

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": REFUSALS[500]}, 500)

    app.add_middleware(
        Guard, local=local and token is None, answer=lambda text, status: JSONResponse({"detail": text}, status)
    )
    guarded: dict[str, Any] = {"dependencies": [Depends(known)], "responses": _refusals(401, 403)}

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(page(app.openapi(), str(request.base_url).rstrip("/"), token is not None), headers=HEADERS)

    @app.get("/health", responses=_refusals(403), summary="Whether it is there, and how busy.")
    async def health() -> Health:
        return Health(
            status="ok", version=__version__, prior=Path(prior).stem, device=model.device,
            running=min(inside, 1), waiting=max(inside - 1, 0),
        )  # fmt: skip

    @app.get("/operators", **guarded, summary="Kinds of damage that it can undo, and their options.")
    async def operators() -> dict[str, Part]:
        return _parts("operator")

    @app.get("/methods", **guarded, summary="Methods that it can restore by, and their options.")
    async def methods() -> dict[str, Part]:
        return _parts("method")

    @app.post(
        "/restore", dependencies=[Depends(known)], response_class=Response, summary="Restore a picture.",
        responses={200: _ANSWER, **_refusals(*REFUSALS)}, openapi_extra={"requestBody": body()},
        description="Answers with a PNG and, in the header X-Flowhelm-Run, the run's facts as JSON; to `Accept: application/json` with "
        "both in one object. A client that leaves stops its run.",
    )  # fmt: skip
    async def restore(request: Request) -> Response:
        found: Response | Refusal = HTTPException(503, STOPPING, {"Retry-After": "30"})
        async with anyio.create_task_group() as group:

            async def wait_for_the_end() -> None:
                while not stopping.is_set():
                    await anyio.sleep(POLL)
                group.cancel_scope.cancel()

            group.start_soon(wait_for_the_end)
            try:
                found = await answered(request)
            except Refusal as error:  # a group of tasks would wrap it
                found = error
            except ClientDisconnect:
                found = Response(status_code=499)  # nobody reads it
            group.cancel_scope.cancel()
        if isinstance(found, Refusal):
            raise found
        return found

    async def answered(request: Request) -> Response:
        nonlocal uploading, inside
        # who uploads slowly keeps no place from those who are ready
        busy = HTTPException(429, f"{limits.waiting} requests wait already; try again later", {"Retry-After": "10"})
        if inside > limits.waiting or uploading >= UPLOADS:
            raise busy
        uploading += 1
        try:
            fields, uploads = await _form(request, round(limits.megabytes * 1e6))
        finally:
            uploading -= 1
        job = await anyio.to_thread.run_sync(_job, prior, limits.cost, fields, uploads)
        if inside > limits.waiting:
            raise busy
        inside += 1
        try:
            made = await _carried_out(request, worker, job, turn, stopping, limits.seconds)
        finally:
            inside -= 1
        return Response(status_code=499) if made is None else _answer(made, request.headers.get("accept", ""))

    return app


async def _form(request: Request, most: int) -> tuple[dict[str, str], dict[str, bytes]]:
    """Fields and files of a request, each name once; a body of more bytes than `most` is refused before it is read whole."""
    large, read = HTTPException(413, f"the upload is larger than {most / 1e6:g} MB; send a smaller picture"), 0
    told = request.headers.get("content-length", "0")
    if not (told.isascii() and told.isdigit() and len(told) < 20) or int(told) > most:
        raise large

    async def bounded() -> Message:
        nonlocal read
        message = await request.receive()
        read += len(message.get("body", b""))
        if read > most:
            raise large
        return message

    try:
        with anyio.fail_after(UPLOAD_SECONDS):
            async with Request(request.scope, bounded).form(max_files=1 + len(FILES), max_fields=100) as form:
                names = [name for name, _ in form.multi_items()]
                for name in names:
                    if names.count(name) > 1:
                        raise HTTPException(422, f"{name!r} is given twice; give it once")
                files = {name: each for name, each in form.items() if isinstance(each, UploadFile)}
                uploads = {name: await each.read() for name, each in files.items()}
                return {name: str(each) for name, each in form.items() if name not in files}, uploads
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {UPLOAD_SECONDS:g} seconds; send it again") from None


def _job(prior: str, most: int, fields: Mapping[str, str], uploads: Mapping[str, bytes]) -> Job:
    """What is to be done, checked as far as possible without the picture. Raises HTTPException."""
    try:
        for name in uploads:
            if name not in ("picture", *FILES):
                raise BadInput(f"there is no file {name!r}; {nearest(name, ('picture', *FILES))}")
        if "picture" not in uploads:
            raise BadInput("expected the picture as the form file 'picture', got none")
        return request_of(prior, fields, uploads, most).stored(), uploads
    except ValueError as error:
        raise _refusal(error) from error


async def _carried_out(
    request: Request, worker: Worker, job: Job, turn: anyio.Lock, stopping: threading.Event, seconds: float
) -> Made | None:
    """What came of the job, when it was its turn; None if the client has left."""
    gone, late, ends, made = threading.Event(), False, 0.0, None

    def each(_: Event | None) -> None:
        nonlocal late
        late = late or time.monotonic() > ends
        if gone.is_set() or stopping.is_set() or late:
            raise _Over

    def work() -> Made | Exception:
        try:
            return cast("Made", worker.run(job, each))
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
            made = await anyio.to_thread.run_sync(work)  # waits for the thread even if cancelled: it ends at once then
        group.cancel_scope.cancel()
    if gone.is_set():
        return None
    if stopping.is_set():
        raise HTTPException(503, STOPPING, {"Retry-After": "30"})
    if late:
        raise HTTPException(503, f"stopped after {seconds:g} seconds; choose fewer steps or a smaller picture")
    if isinstance(made, Exception):
        raise _refusal(made) from made
    return made


def _refusal(error: Exception) -> Exception:
    """What the client is told of an error; one that is a fault of the program stays what it is."""
    if isinstance(error, TooLarge):
        return HTTPException(413, str(error))
    if isinstance(error, ValueError):
        return HTTPException(400 if isinstance(error, Unreadable) else 422, sentence(error))
    if isinstance(error, MemoryError):
        return HTTPException(503, "there is not enough memory for this picture; send a smaller one, or give tile=512")
    if isinstance(error, Died):
        return HTTPException(
            503,
            f"the process that restores ended {TRIES} times in the middle of this; send it again, or a smaller picture",
        )
    if isinstance(error, Fault):
        return HTTPException(500, REFUSALS[500])
    return error


def _answer(made: Made, accept: str) -> Response:
    settings, result = made.settings, made.result
    if "application/json" in accept and "image/png" not in accept:
        whole = Answer(picture=b64encode(made.png).decode(), settings=settings, result=result)
        return Response(whole.model_dump_json(), media_type="application/json")
    facts = {name: settings[name] for name in ("operator", "method", "std", "seed", "prior")}
    header = {"X-Flowhelm-Run": json.dumps(facts | {"steps": len(settings["times"]) - 1} | result)}
    return Response(made.png, media_type="image/png", headers=header)


def _parts(part: str) -> dict[str, Part]:
    def made(f: Callable[..., Any]) -> Part:
        return Part(title=cards.title(f), card=cards.text(part, f), options=schema_of(f), files=uploaded(f))

    return {f.__name__: made(f) for f in PARTS[part]}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": REFUSALS[status]} for status in statuses}
