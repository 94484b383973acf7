"""The application that restores over HTTP, for any ASGI server.

What a request may say is made from `PictureRequest` and the signatures, as for the command line; the numbers are those of
`flowhelm restore`. A client may name no file of this machine: what an operator reads (a mask, a kernel) is uploaded.
"""

import json
import secrets
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from PIL import Image
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import Message

from ... import __version__
from ...app.errors import BadInput, TooLarge, nearest, sentence
from ...app.files import pictures
from ...app.options import cards
from ...app.options.signature import options
from ...app.restore.problem import channels
from ...app.restore.request import PictureRequest
from ...app.restore.restorer import Ready, Restored, Restorer
from ...app.run import Event, drive
from ...memory import is_short
from ...step import Diverged
from ..guard import Guard
from .form import FILES, PARTS, body, request_of, schema_of
from .request import Limits

UPLOAD_SECONDS = 60.0
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
_HEADER = {"description": "The run's facts as JSON: sha256, residual, ...", "schema": {"type": "string"}}
_PNG = {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}}
_ANSWER = {
    "model": Answer, "description": "The restored picture.", "headers": {"X-Flowhelm-Run": _HEADER}, "content": _PNG,
}  # fmt: skip


def application(
    restorer: Restorer, *, token: str | None = None, limits: Limits = DEFAULT, local: bool = True
) -> FastAPI:
    """The application.

    Args:
        token: that each request but /health must bear. local: answer requests for this machine by its own names only, so that no page of
            another site reaches it by a name of its own (DNS rebinding); with a token that is not needed.
    """
    turn, stopping = anyio.Lock(), threading.Event()
    inside = 0

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
    )  # fmt: skip

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": REFUSALS[500]}, 500)

    app.add_middleware(
        Guard, local=local and token is None, answer=lambda text, status: JSONResponse({"detail": text}, status)
    )
    guarded: dict[str, Any] = {"dependencies": [Depends(known)], "responses": _refusals(401, 403)}

    @app.get("/health", responses=_refusals(403), summary="Whether it is there, and how busy.")
    async def health() -> Health:
        return Health(
            status="ok", version=__version__, prior=Path(restorer.prior).stem, device=restorer.device,
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
        nonlocal inside
        if inside > limits.waiting:
            raise HTTPException(429, f"{limits.waiting} requests wait already; try again later", {"Retry-After": "10"})
        inside += 1
        try:
            fields, uploads = await _form(request, round(limits.megabytes * 1e6))
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


async def _form(request: Request, most: int) -> tuple[dict[str, str], dict[str, bytes]]:
    """Fields and files of a request, each name once; a body of more bytes than `most` is refused before it is read whole."""
    large, read = HTTPException(413, f"the upload is larger than {most / 1e6:g} MB; send a smaller picture"), 0
    told = request.headers.get("content-length", "0")
    if not told.isdigit() or int(told) > most:
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


def _prepared(restorer: Restorer, fields: Mapping[str, str], uploads: Mapping[str, bytes]) -> Ready:
    """Everything but the long work. Raises HTTPException."""
    try:
        asked = request_of(restorer.prior, fields)
        for name in uploads:
            if name not in ("picture", *FILES):
                raise BadInput(f"there is no file {name!r}; {nearest(name, ('picture', *FILES))}")
        if "picture" not in uploads:
            raise BadInput("expected the picture as the form file 'picture', got none")
        given = {name: _file(name, data, restorer.limit) for name, data in uploads.items() if name != "picture"}
        settings = {name: getattr(asked, name) for name in PictureRequest.model_fields}
        settings["operator_options"] = {**asked.operator_options, **given}
        colours = channels(asked.operator, asked.simulate)
        return restorer.prepare(_picture("the picture", uploads["picture"], colours, restorer.limit), **settings)
    except HTTPException:
        raise
    except Exception as error:
        raise _refusal(error) from error


def _picture(name: str, data: bytes, channels: int, limit: int) -> pictures.Picture:
    try:
        return pictures.decode(data, name, channels=channels, limit=limit)
    except BadInput as error:
        large = isinstance(error, TooLarge)
        raise HTTPException(413 if large else 400, str(error)) from error


def _file(name: str, data: bytes, limit: int) -> Image.Image | np.ndarray:
    """An uploaded mask or kernel: a picture, or an array of NumPy (never unpickled)."""
    if not data.startswith(b"\x93NUMPY"):
        _picture(name, data, 1, limit)  # says what is wrong, and holds the limit before decoding
        return Image.open(BytesIO(data))
    try:
        array: np.ndarray = np.load(BytesIO(data), allow_pickle=False, max_header_size=10_000)
        return array
    except Exception as error:  # on damaged bytes NumPy raises nearly anything
        reason = " ".join(str(error).split())
        raise HTTPException(400, f"{name}: the array cannot be read ({reason}); save it again") from error


async def _carried_out(
    request: Request, restorer: Restorer, ready: Ready, turn: anyio.Lock, stopping: threading.Event, seconds: float
) -> Restored | None:
    """The run, when it is this request's turn; None if the client has left."""
    gone, ends, made = threading.Event(), 0.0, None

    def each(_: Event) -> None:
        if gone.is_set() or stopping.is_set() or time.monotonic() > ends:
            raise _Over

    def work() -> Restored | Exception:
        try:
            return drive(restorer.events(ready), each)  # `_Over` closes it
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
    if isinstance(made, Exception):
        raise _refusal(made) from made
    return made


def _refusal(error: Exception) -> Exception:
    """What the client is told of an error; one that is a fault of the program stays what it is."""
    if isinstance(error, TooLarge):
        return HTTPException(413, str(error))
    if isinstance(error, ValueError | Diverged):
        return HTTPException(422, sentence(error))
    if is_short(error):
        return HTTPException(503, "there is not enough memory for this picture; send a smaller one, or give tile=512")
    return error


def _answered(made: Restored, accept: str) -> Response:
    settings = {**made.settings, "prior": Path(made.settings["prior"]).stem}  # no path of this machine
    settings.pop("photo")
    result = {
        "sha256": made.sha256, "residual": made.residual, "evaluations": made.evaluations, "seconds": made.seconds, **made.scores,
    }  # fmt: skip
    if "application/json" in accept and "image/png" not in accept:
        whole = Answer(picture=b64encode(made.png()).decode(), settings=settings, result=result)
        return Response(whole.model_dump_json(), media_type="application/json")
    facts = {name: settings[name] for name in ("operator", "method", "std", "seed", "prior")}
    header = {"X-Flowhelm-Run": json.dumps(facts | {"steps": len(settings["times"]) - 1} | result)}
    return Response(made.png(), media_type="image/png", headers=header)


def _parts(part: str) -> dict[str, Part]:
    return {
        f.__name__: Part(
            title=cards.title(f), card=cards.text(part, f), options=schema_of(f), files=[o for o in FILES if o in options(f)]
        )
        for f in PARTS[part]
    }  # fmt: skip


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": REFUSALS[status]} for status in statuses}
