"""What the page's fields say, as requests: those of the command line, so that a run of the page is the command line's to the bit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import Field

from ...app.batch import items
from ...app.batch.items import Item
from ...app.batch.request import Many
from ...app.errors import BadInput
from ...app.files.atomic import put_picture
from ...app.options.signature import options, pick
from ...app.restore.record import RestoreFile
from ...app.restore.request import RestoreRequest, RestoreSettings, function_of
from ...app.restore.run import restore
from ...app.restore.settle import check_cost, settle
from ...app.run import Done, Run
from . import folder
from .request import PageRequest

if TYPE_CHECKING:
    from ...app.steer.request import SteerRequest, SteerSettings

SAMPLES = 16
STEPS = 2000
BUDGET = COST = 1_000_000


class RestoreFields(RestoreRequest):
    """What the Restore tab asks for: a restoration, perhaps several times; of options, those that are files are uploads."""

    samples: int = Field(1, ge=1, le=SAMPLES, description=Many.model_fields["samples"].description)
    painted: Any = Field(None, exclude=True, description="What was painted over the picture.")


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values of fields those that were given: a text that is empty is none, save where there must be one."""
    return {name: value for name, value in fields.items() if value not in (None, "") or name == "seed"}


def restore_fields(fields: Mapping[str, Any]) -> RestoreFields:
    """Raises BadInput."""
    if not fields.get("photo"):
        raise BadInput("drop a picture first")
    return RestoreFields.of(given(fields), "restore")


def steer_request(fields: Mapping[str, Any]) -> SteerRequest:
    """Raises BadInput. Of the fields, `reward` is the text that was typed, and `label` a class."""
    from ...app.steer.request import SteerRequest

    rewards = [part.strip() for part in re.split(r"\s\+\s|\n", fields.get("reward") or "") if part.strip()]
    label = fields.get("label")
    known = {name: value for name, value in fields.items() if name not in ("reward", "label")}
    return SteerRequest.of({**given(known), "reward": rewards, "classes": [label] if label else []}, "steer")


# --- where nothing is said ---


def usual(
    operator: str, method: str | None, prior: str, std: str | float | None, device: str = "cpu"
) -> RestoreSettings:
    """Settings as `flowhelm restore` would fill them in, presets and all; what must be given is `needed`."""
    needed = {o.name: "needed" for o in options(function_of("operator", operator)).values() if o.needed}
    fields: dict[str, Any] = {"photo": "photo.png", "operator": operator, "operator_options": needed}
    fields |= {"method": method or None, "std": std or "auto"}
    fields |= {"prior": prior, "simulate": True, "device": device, "threads": 1}
    return settle(RestoreRequest.of(fields, "restore"), picture="later")


# --- settings of runs ---


def restoration(asked: RestoreFields, page: PageRequest) -> tuple[Path, list[RestoreSettings]]:
    """A new folder with what the run reads, and the settings of each of its samples.

    Raises:
        BadInput: as the command line would say it; then nothing is left in the run folder.
    """
    _checked(asked.prior, page, steps=(asked.steps, STEPS))
    size = folder.checked(asked.photo, page.max_megapixels)
    builder = function_of("operator", asked.operator)
    where = folder.new(page.runs, asked.stored())
    try:
        photo = folder.take(asked.photo, where)
        uploads = _with_files(builder, asked, photo, size, page)
        base = asked.changed(photo=photo, operator_options=uploads, threads=page.threads, device=page.device)
        made: list[RestoreSettings] = []
        for i in range(asked.samples):
            # the names and the seeds of `flowhelm restore PHOTO --samples N --out FOLDER`
            mark = f".sample-{i}" * (asked.samples > 1)
            item = Item(photo.name, str(photo), asked.seed, i, f"{photo.stem}{mark}.restored.png")
            seed = item.own_seed if asked.samples > 1 else asked.seed
            one = base.changed(out=where / item.output, seed=seed, std=made[0].std if made else base.std)
            settings = settle(one, drawn=asked.samples > 1)
            if made and made[0].estimated:
                settings = settings.changed(estimated=True)
            made.append(items.of_a_set(item, settings) if asked.samples > 1 else settings)
        check_cost(made[0], COST, "; the command line takes more")
    except BaseException:
        folder.give_up(where)
        raise
    return where, made


def restored(samples: list[RestoreSettings]) -> Run[list[RestoreFile]]:
    """The samples, one after the other."""
    made: list[RestoreFile] = []
    for settings in samples:
        if made:
            yield Done(f"sample {len(made)}", made[-1])
        made.append((yield from restore(settings)))
    return made


def steering(asked: SteerRequest, page: PageRequest) -> tuple[Path, SteerSettings]:
    """A new folder for a steered picture, and its settings. Raises BadInput."""
    from ...app.steer import run as steered

    _checked(asked.prior, page, steps=(asked.steps, STEPS), budget=(asked.budget, BUDGET))
    for reward in asked.reward:
        harmless(reward)
    where = folder.new(page.runs, asked.stored())
    try:
        return where, steered.settle(asked.changed(out=where, threads=page.threads, device=page.device))
    except BaseException:
        folder.give_up(where)
        raise


def harmless(reward: str) -> None:
    """Raises BadInput on a reward that reads files or runs code of this machine: a page must not."""
    from ...app.steer import rewards

    remedy = "the page reads no files and runs no code of this machine; take `flowhelm steer` for that"
    if re.search(r"\.py\b|\.safetensors\b|\.\.", reward):
        raise BadInput(f"{reward!r}: {remedy}")
    name, _, rest = rewards.weighed(reward)[1].partition(":")
    from ...app.steer.builders import BUILDERS

    builder = pick("reward", name, BUILDERS)
    for option in options(builder).values():
        if Path in option.types and re.search(rf"(?:^|,)\s*{option.name}\s*=", rest):
            raise BadInput(f"{name} with {option.name}=: {remedy}")
    for what, path in rewards.term(reward).reads.items():  # what is there was made absolute
        if re.match(r"[/\\~.]|\w:", path):
            raise BadInput(f"{what}: {remedy}")


def _with_files(
    builder: Callable[..., Any], asked: RestoreFields, photo: Path, size: tuple[int, int], page: PageRequest
) -> dict[str, Any]:
    """The operator's options; those that are files are copies of uploads, or the mask that was painted, in the run's folder."""
    found = given(asked.operator_options)
    for option in options(builder).values():
        if Path not in option.types:
            continue
        upload = found.pop(option.name, None)
        if upload is not None:
            end = Path(folder.safe(str(upload))).suffix.lower()
            if option.name == "mask":
                folder.checked(upload, page.max_megapixels)
            found[option.name] = str(folder.take(upload, photo.parent, f"{photo.stem}.{option.name}{end}"))
        elif option.name == "mask":
            mask = folder.mask_of(asked.painted, _upright(photo, size))
            if mask is None:
                raise BadInput("paint over what is missing, or give a mask (white is kept, black is missing)")
            put_picture(target := photo.with_name(f"{photo.stem}.mask.png"), mask)
            found["mask"] = str(target)
        elif option.needed:
            raise BadInput(f"{builder.__name__} needs a file: {option.help or option.name}")
    return found


def _upright(photo: Path, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height as they are shown: a photograph may say that it is to be turned."""
    with Image.open(photo) as image:
        return size[::-1] if image.getexif().get(0x0112) in (5, 6, 7, 8) else size


def _checked(prior: str, page: PageRequest, **numbers: tuple[int | None, int]) -> None:
    """Raises BadInput: a prior that the page does not offer, or a number that is more than it takes."""
    if prior not in page.priors:
        raise BadInput(f"the page was not started with the prior {prior!r}; start it with --prior {prior}")
    for name, (value, most) in numbers.items():
        if value is not None and value > most:
            raise BadInput(f"{name}: expected at most {most}, got {value}; the command line takes more")


# --- runs of the history again ---


def reopened(run: folder.Run, runs: Path) -> dict[str, dict[str, str]]:
    """The options of a run's operator and method as they would be typed; files are those in the run's folder."""
    found = {"method": _typed(run.settings.method_options)}
    if not run.steered:
        known = options(function_of("operator", run.settings.operator))
        found["operator"] = _typed(run.settings.operator_options)
        for name, value in run.settings.operator_options:
            if Path in known[name].types and value is not None:
                beside = run.path.with_name(Path(value).name).relative_to(runs)
                found["operator"][name] = str(folder.inside(runs, beside.as_posix()))
    return found


def _typed(chosen: Any) -> dict[str, str]:
    return {name: "none" if value is None else str(value) for name, value in chosen.model_dump(mode="json").items()}
