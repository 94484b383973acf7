"""Names of priors, told apart without opening anything, and whether the hub has one. This file needs no torch, so that what is misspelt, or
cannot be reached, is said at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

NAMES = ("photos", "photos-2", "fashion", "aerial", "animals", "fashion-tokens", "blind", "codec")
"""Of the priors that ship with the package."""
PHOTOS = "photos-2"
"""Of these, the prior where none is named."""
STUDENTS: dict[str, tuple[str, int]] = {
    "fashion-2": ("fashion", 2),
    "fashion-1": ("fashion", 1),
    "aerial-2": ("aerial", 2),
}
"""Of the students that ship: their prior, and of how many calls they are."""
ADAPTERS = {"jpeg": "photos-2"}
"""Of the adapters that ship: their prior."""
BIJECTIONS = ("fashion-tarflow",)
"""Of the normalising flows that ship: they draw and have likelihoods, and are no flows in time."""
OWN = {"paired": ("pmrf", "blind"), "codec": ("vble", "codec")}
"""The method and the bundled prior of each kind of prior, `Flow.prior_kind`, that one method alone takes."""
USUAL = {**OWN, "tokens": ("aps", "fashion-tokens")}
"""The usual method and the bundled prior of each kind of prior that is no flow."""
DENOISERS = "deepinv:"
"""What the names of deepinv's denoisers begin with; see `priors.denoisers`."""
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
"""Suffixes of files that may run any code when they are read."""
MOST_HEADER = 100_000_000
"""Bytes of a safetensors file's header, at most; safetensors has the same limit."""


def pipeline(model: object) -> bool:
    """Whether this is the name of a pipeline: a folder, or a name of the hub such as "stabilityai/sdxl-turbo"; not a file."""
    if not isinstance(model, str | Path):
        return False
    place = Path(model)
    if place.is_dir():
        return True
    fits = isinstance(model, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", model)
    return bool(fits) and place.suffix.lower() not in (".safetensors", ".py", *PICKLES) and not place.exists()


def kind(name: str | Path) -> str:
    """`Flow.prior_kind` of a prior by name or file, read off the file's header: paired, codec, tokens, or flow, also where it cannot be
    read."""
    place = Path(__file__).parent / "priors" / "weights" / f"{name}.safetensors" if name in NAMES else Path(name)
    said = header(place)
    if "tokens" in said:
        return "tokens"
    return said["kind"] if said.get("kind") in OWN else "flow"


def prior_of(method: str | None) -> str | None:
    """The bundled prior of a method that takes no flow; None of other methods."""
    return next((prior for mine, prior in OWN.values() if mine == method), None)


def check(name: str | Path) -> None:
    """Raises ValueError for the name of a prior that is neither one that ships nor a file; pipelines are not looked at."""
    if (
        name in NAMES
        or name in STUDENTS
        or name in BIJECTIONS
        or str(name).startswith(DENOISERS)
        or Path(name).is_file()
        or Path(name).suffix.lower() in PICKLES
    ):
        return
    raise ValueError(
        f"prior: expected one of {', '.join((*NAMES, *BIJECTIONS))}, a .safetensors file, deepinv:NAME (or, where pipelines are "
        f"taken, a folder or a hub name org/name), got '{name}'; {nearest(str(name), (*NAMES, *BIJECTIONS))}"
    )


def student(prior: str, which: str) -> str:
    """The student of a prior: a file by its path, or one that ships by its number of calls, as a prior's name.

    Raises:
        ValueError: there is none, or the file holds a student of another prior.
    """
    if which.isdigit():
        own = {calls: name for name, (base, calls) in STUDENTS.items() if base == prior}
        if int(which) not in own:
            found = "; ".join(f"{base} has one of {calls}" for base, calls in STUDENTS.values()) or "none does"
            raise ValueError(
                f"student: no student of {which} calls of '{prior}' ships ({found}); distil one, flowhelm distil {prior} --steps {which}, "
                "and name its file"
            )
        return own[int(which)]
    said = header(Path(which)).get("student")
    if said is None:
        raise ValueError(
            f"student: expected a number of calls or a .safetensors file of flowhelm distil, got '{which}'"
        )
    base = json.loads(said)
    own_file = Path(prior).is_file() and hashlib.sha256(Path(prior).read_bytes()).hexdigest()
    if prior not in (base.get("base"), which) and own_file != base.get("sha256"):
        raise ValueError(f"student: '{which}' is a student of {base.get('base')}, not of '{prior}'; name its prior")
    return which


def header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; nothing of what is none."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(size)) if size <= MOST_HEADER else {}
        said = found.get("__metadata__", {}) if isinstance(found, dict) else {}
        return said if isinstance(said, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names := list(names), 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"it is one of {', '.join(names)}"


def fetched(model: str) -> Path:
    """The model_index.json of a name of the hub: from there, or from the cache where the hub does not answer.

    Raises:
        ValueError: one sentence, soon: the hub cannot be reached, does not have it or does not show it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, "model_index.json", local_files_only=not reachable()))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            refuse(model, error)
        raise ValueError(
            f"model {model!r} is on the hub, but has no model_index.json: it is no pipeline of diffusers; look for a repository that "
            "ends in -diffusers"
        ) from None
    except Exception as error:  # the hub's, the network's, the disk's
        refuse(model, error)


def reachable(seconds: float = 2.0) -> bool:
    """Whether the hub answers. It is asked in a thread: a name that cannot be looked up, and the hub's own retries, take a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    answers: list[Any] = []

    def ask() -> None:
        with suppress(Exception):  # of the network, in many kinds
            answers.append(get_session().head(constants.ENDPOINT, timeout=seconds))

    asking = threading.Thread(target=ask, daemon=True)
    if not constants.HF_HUB_OFFLINE:
        asking.start()
        asking.join(seconds)
    return bool(answers)


def refuse(model: str, error: BaseException) -> NoReturn:
    """One sentence for what the hub, the network or the cache say. Nothing of theirs is repeated that might hold a token."""
    from huggingface_hub import errors

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__

    def any_of(*kinds: str) -> bool:
        return any(type_.__name__ in kinds for each in chain for type_ in type(each).__mro__)

    if any(isinstance(each, errors.GatedRepoError) for each in chain):
        words = (
            f"is gated: accept the licence on its page, https://huggingface.co/{model}, and log in with: hf auth login"
        )
    elif any(isinstance(each, errors.RepositoryNotFoundError) for each in chain):
        words = "is neither a folder here nor a model of the hub that you may see; check its name, or log in with: hf auth login"
    elif any("safetensors" in str(each) for each in chain):
        words = (
            "has no safetensors weights on the hub, only pickles, which can run any code when they are read; "
            "look for a conversion of it"
        )
    elif any_of("OfflineModeIsEnabled", "LocalEntryNotFoundError", "CachedRepoTreeNotFoundError", "ConnectionError", "NetworkError",
                "TransportError", "Timeout", "TimeoutException"):  # fmt: skip
        words = (
            "is no folder here and not in the cache, and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set); "
            "load it once with a network, or give the path of a folder"
        )
    elif any(isinstance(each, errors.HFValidationError) for each in chain):
        words = "is no name of the hub; expected 'org/name'"
    else:
        words = f"cannot be fetched ({type(error).__name__}); try again, or give the path of a folder"
    raise ValueError(f"model {model!r} {words}") from None
