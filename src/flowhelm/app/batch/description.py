"""The description of a batch: what `flowhelm restore` takes, and which pictures. A JSON or YAML file, or the words of the command line.

What an editor accepts with `flowhelm batch --schema` is what a batch accepts: both are made from `BatchRequest`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ... import operators, raster
from ...cards import RESTORE_OR_STEER
from ...known import STUDENTS
from ...priors.bundled import NAMES, Prior
from ...priors.pipelines import Pipeline
from ..errors import BadInput
from ..files import stacks
from ..options import own
from ..options.signature import model_of, options, read
from ..restore.presets import usual_method
from ..restore.problem import channels
from ..restore.request import ITSELF, RestoreRequest, RestoreSettings, function_of
from ..restore.settle import settle
from .request import BatchRequest


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a description."""
    found = BatchRequest.model_json_schema(by_alias=True)
    properties = found["properties"]
    for part, functions in _parts():
        names = [f.__name__ for f in functions]
        told = {key: properties[part][key] for key in ("default", "description") if key in properties[part]}
        properties[part] = {"enum": names if part == "operator" else [*names, None], **told}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "a batch of flowhelm",
        "allOf": conditions(),
    }


def conditions() -> list[dict[str, Any]]:
    """Of a schema with `operator` and `method`: which options go with each."""
    return [
        {
            "if": {"properties": {part: {"const": f.__name__}}, "required": [part]},
            "then": {
                "properties": {f"{part}_options": (found := model_of(f).model_json_schema())},
                # an object that is left out has no options, and some are needed
                "required": [f"{part}_options"] if found.get("required") else [],
            },
        }
        for part, functions in _parts()
        for f in functions
    ]


def _parts() -> tuple[tuple[str, tuple[Any, ...]], ...]:
    return (("operator", tuple(operators.ALL)), ("method", RESTORE_OR_STEER))


def read_file(path: Path) -> BatchRequest:
    """The description in a file, with every default filled in; paths in it are relative to its folder."""
    kind = "YAML" if path.suffix.lower() in (".yaml", ".yml") else "JSON"
    try:
        text = path.read_text(encoding="utf-8")
        raw = parsed(_of_yaml(text) if kind == "YAML" else text)
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"{str(path)!r} does not exist; flowhelm restore FOLDER --dry-run prints one") from error
    except RecursionError:
        raise BadInput(f"{str(path)!r} is not a description of a batch in {kind} (it is nested too deep)") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is not a description of a batch in {kind} ({error})") from error
    if not isinstance(raw, dict):
        raise BadInput(f"{path.name}: expected an object with inputs, operator, ..., got {str(raw)[:80]!r}")
    return filled(BatchRequest.of_json(raw, path.name), path.absolute().parent, path.name, strict=True)


def parsed(text: str) -> Any:
    """JSON without NaN, infinities and names that are given twice. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def filled(request: BatchRequest, base: Path, who: str = "batch", *, strict: bool = False) -> BatchRequest:
    """A description with every path absolute (`base` is what they are relative to), checked as far as possible without the pictures.

    Args:
        who: begins the sentence of a BadInput. strict: options as JSON has them, where "3" is no number.

    Raises:
        BadInput: what `flowhelm restore` would refuse.
    """
    builder = function_of("operator", request.operator)
    usual = usual_method(request.operator, request.prior, request.look, drawn=request.samples > 1)
    method = function_of("method", request.method or usual)
    made: dict[str, Any] = {}
    for part, function, given in (
        ("operator", builder, request.operator_options), ("method", method, request.method_options)
    ):  # fmt: skip
        try:
            chosen = read(function, given, strict=strict).stored()
        except BadInput as error:
            raise BadInput(f"{who}: {part}_options: {error}") from None
        paths = [n for n, o in options(function).items() if Path in o.types and chosen.get(n) is not None]
        absolute = {n: _from(base, chosen[n]) for n in paths if chosen[n] != ITSELF or (base / ITSELF).exists()}
        made[f"{part}_options"] = chosen | absolute
    inputs = [_from(base, each) for each in request.pictures]
    for name, values in (("inputs", inputs), ("seeds", request.own_seeds)):
        if not values or len(set(values)) < len(values):
            raise BadInput(f"{who}: {name}: expected at least one, each of them once, got {values}")
    if request.range is not None and not -math.inf < request.range[0] < request.range[1] < math.inf:
        raise BadInput(f"{who}: range: expected the value of black below that of white, got {list(request.range)}")
    out = request.out
    if out is None:
        if len(inputs) > 1 or not Path(inputs[0]).is_dir():
            raise BadInput(
                f"{who}: out is missing: the folder for the results (only for one folder of inputs it has a default)"
            )
        out = inputs[0] + ".restored"
    file = request.prior not in (*NAMES, *STUDENTS) and (base / request.prior).is_file()
    words = {n: w for n in ("operator", "method", "prior") if (w := own.word(str(getattr(request, n))))}
    whole = request.changed(
        **made, inputs=inputs, seeds=request.own_seeds, out=_from(base, out), prior=_from(base, request.prior) if file else request.prior
    ).changed(**words)  # fmt: skip
    settled(whole, who)
    return whole


def settled(
    request: BatchRequest, who: str = "batch", photo: str | None = None, flow: Prior | Pipeline | None = None
) -> RestoreSettings:
    """Settings of a run of one photograph, or of a picture that is not known yet, whose noise is estimated later."""
    shared = {name: getattr(request, name) for name in RestoreRequest.model_fields if name in BatchRequest.model_fields}
    one = RestoreRequest.of({**shared, "photo": photo or "picture.png", "out": None}, who)
    if photo is None:
        return settle(one, drawn=request.samples > 1, picture="later")
    with raster.within(request.budget):
        picture = stacks.read(
            photo, channels=channels(one.operator, one.simulate), span=request.range, page=request.page
        )
    return settle(one, drawn=request.samples > 1, picture=picture, flow=flow)  # a mean of particles is no sample


def _from(base: Path, text: str) -> str:
    return str((base / Path(text).expanduser()).absolute())


def _of_yaml(text: str) -> str:
    """YAML as JSON: what has no counterpart there (dates, anchors, keys that are no texts) is refused."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few of them may stand for more than memory holds
                raise ValueError("anchors and aliases are not taken")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            return _once([(self.construct_object(k, True), self.construct_object(v, True)) for k, v in node.value])

    # dates stay the texts that they are typed as
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        return json.dumps(yaml.load(text, Loader), allow_nan=False)
    except (yaml.YAMLError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is given twice")
    return dict(pairs)
