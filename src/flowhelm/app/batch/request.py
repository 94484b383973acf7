"""The description of a batch: a JSON object that holds what `flowhelm restore` takes, and which pictures.

Its schema is read off the signatures of the command, of the operators and of the methods, and it is the schema that is held
here: what an editor accepts with `flowhelm batch --schema` is what a batch accepts.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ... import operators
from ...entry import members
from ...priors.bundled import NAMES
from ..errors import BadInput, nearest
from ..models import opening as models
from ..options.request import Option, Plain
from ..options.signature import bind, named, options, pick, shown
from ..restore.presets import preset
from ..restore.run import METHODS, settle

_NOT_OF_A_JOB = {
    "context",
    "words",
    "seed",
    "out",
    "resume",
    "preview",
    "dry_run",
    "retry",
    "ray",
    "workers",
    "cores_per_worker",
}
_TILE = {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 0}]}
_ROWS = {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}
_RANGE = {"anyOf": [{"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}, {"type": "null"}]}
_TYPES: dict[str, Any] = {
    "boolean": (bool,), "integer": (int,), "number": (int, float), "string": (str,), "null": (NoneType,), "object": (dict,),
    "array": (list,),
}  # fmt: skip
_WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "null": "null",
    "object": "an object",
    "array": "a list",
}


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a description."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a batch of flowhelm",
        **_top(),
        "allOf": conditions(),
    }


def conditions() -> list[dict[str, Any]]:
    """Of a schema with `operator` and `method`: which options go with each."""
    return [
        {
            "if": {"properties": {part: {"const": f.__name__}}, "required": [part]},
            "then": {
                "properties": {f"{part}_options": (found := object_of(f))},
                # an object that is left out has no options, and some are needed
                "required": [f"{part}_options"] if found["required"] else [],
            },
        }
        for part, functions in (("operator", operators.ALL), ("method", METHODS))
        for f in functions
    ]


def read(path: Path) -> dict[str, Any]:
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
    return filled(raw, path.absolute().parent, path.name)


def parsed(text: str) -> Any:
    """JSON without NaN, infinities and names that are given twice. Raises ValueError."""
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)


def filled(raw: Any, base: Path, who: str = "job") -> dict[str, Any]:
    """A description with every default filled in and every path absolute (`base` is what they are relative to).

    Raises:
        BadInput: what does not fit the schema, or what `flowhelm restore` would refuse; `who` begins its sentence.
    """
    top = _top()
    check(raw, top, who)
    job = {name: part["default"] for name, part in top["properties"].items() if "default" in part} | raw
    builder = pick("operator", job["operator"], operators.ALL)
    usual = models.METHOD if models.is_pipeline(job["prior"]) else preset(builder.__name__, 1.0)[0]
    method = pick("method", job["method"] or usual, METHODS)
    for part, function in (("operator", builder), ("method", method)):
        given = job[f"{part}_options"]
        check(given, object_of(function), f"{who}: {part}_options")
        paths = {o.name for o in options(function).values() if Path in o.types}
        job[f"{part}_options"] = {n: _from(base, v) if n in paths and v is not None else v for n, v in given.items()}
    inputs = [job["inputs"]] if isinstance(job["inputs"], str) else job["inputs"]
    job["inputs"] = [_from(base, each) for each in inputs]
    job["seeds"] = [job["seeds"]] if isinstance(job["seeds"], int) else job["seeds"]
    for name in ("inputs", "seeds"):
        if not job[name] or len(set(job[name])) < len(job[name]):
            raise BadInput(f"{who}: {name}: expected at least one, each of them once, got {job[name]}")
    if job["range"] is not None and not -math.inf < job["range"][0] < job["range"][1] < math.inf:
        raise BadInput(f"{who}: range: expected the value of black below that of white, got {job['range']}")
    if job.get("out") is None:
        if len(inputs) > 1 or not Path(job["inputs"][0]).is_dir():
            raise BadInput(
                f"{who}: out is missing: the folder for the results (only for one folder of inputs it has a default)"
            )
        job["out"] = job["inputs"][0] + ".restored"
    job["out"] = _from(base, job["out"])
    if job["prior"] not in NAMES and (base / job["prior"]).is_file():
        job["prior"] = _from(base, job["prior"])
    settled(job)
    return job


def of_words(
    params: Mapping[str, Any],
    photos: list[str],
    given: Mapping[str, Mapping[str, Plain]],
    builder: Callable[..., Any],
    method: Callable[..., Any],
) -> dict[str, Any]:
    """The description that the words of `flowhelm restore` make: of its parameters, and of operator and method."""
    raw = {name: value for name, value in params.items() if name in _top()["properties"]}
    raw |= {name: int(t) if (t := params[name]).isdecimal() else t for name in ("tile", "rows")}
    raw |= {"inputs": photos, "seeds": params["seed"], "range": _range(params["span"])}
    if params["out"] is None:
        raw.pop("out")
    else:
        raw["out"] = str(params["out"])
    for part, function in (("operator", builder), ("method", method)):
        bound = bind(function, given.get(part, {}))
        raw[f"{part}_options"] = {name: shown(value) for name, value in bound.items()}
    return filled(raw, Path.cwd(), "restore")


def settled(job: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run, for a picture that is not known yet."""
    drawn = {"drawn": True} if job["samples"] > 1 else {}  # a mean of particles is no sample
    return drawn | settle(
        Path("picture.png"), job["operator"], given={"operator": job["operator_options"], "method": job["method_options"]},
        out=None, seed=0, tile=None if job["tile"] == "auto" else job["tile"],
        model={n: job[n] for n in inspect.signature(models.settled).parameters if n not in ("name", "device")},
        **{n: job[n] for n in ("method", "steps", "std", "prior", "simulate", "threads", "device", "keep", "warm", "codec_error")},
    )  # fmt: skip


def _top() -> dict[str, Any]:
    """The schema without what depends on the operator and the method."""
    from ...interfaces.cli.restore import restore  # which imports this module, in the command

    hints, own = get_type_hints(restore, include_extras=True), {}
    for name, parameter in inspect.signature(restore).parameters.items():
        if name not in _NOT_OF_A_JOB:
            kind, typed = get_args(hints[name])
            own[name] = _of(tuple(k for k, _ in members(kind)), parameter.default, typed.help)
            if typed.min is not None:
                _least(own[name], typed.min)
    own["operator"] = {"enum": [f.__name__ for f in operators.ALL], "description": own["operator"]["description"]}
    method = own["method"]
    own["method"] = {
        "enum": [*(f.__name__ for f in METHODS), None],
        "default": None,
        "description": method["description"],
    }
    own["tile"] = {**_TILE, "default": "auto", "description": own["tile"]["description"]}
    own["rows"] = {**_ROWS, "default": 1, "description": own["rows"]["description"]}
    own["range"] = {**_RANGE, "default": None, "description": own.pop("span")["description"]}
    text = {"type": "string"}
    return {
        "type": "object",
        "properties": {
            "$schema": text,
            "inputs": {
                "anyOf": [text, {"type": "array", "items": text}],
                "description": "A folder (the pictures right in it), a file, a glob such as photos/**/*.png, or a list of these.",
            },
            "out": {
                "type": "string",
                "description": "Folder for the results; default, for one folder of inputs: its name with .restored.",
            },
            "seeds": {
                "anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}],
                "default": [0],
                "description": "Of the batch; a picture's own comes from one of these and its name. With several, each picture is "
                "restored once for each.",
            },
            **own,
            "operator_options": {"type": "object", "default": {}, "description": "See `flowhelm operators NAME`."},
            "method_options": {"type": "object", "default": {}, "description": "See `flowhelm methods NAME`."},
        },
        "required": ["inputs", "operator"],
        "additionalProperties": False,
    }


def object_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Schema of the options of an operator or a method."""
    found = options(function)
    return {
        "type": "object",
        "properties": {name: _option(option) for name, option in found.items()},
        "required": [name for name, option in found.items() if option.needed],
        "additionalProperties": False,
    }


def _option(option: Option) -> dict[str, Any]:
    return _of(option.types, option.default if option.needed else shown(option.default), option.help)


def _of(kinds: tuple[Any, ...], default: Any, text: str | None) -> dict[str, Any]:
    kinds = tuple(k for k in kinds if k is not int or float not in kinds)
    any_of = [_kind(k) for k in kinds]
    found = any_of[0] if len(any_of) == 1 else {"anyOf": any_of}
    if default is not inspect.Parameter.empty:
        found = {**found, "default": default}
    return {**found, "description": " ".join((text or "").split())}


def _kind(kind: Any) -> dict[str, Any]:
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if functions := named(kind):
        return {"type": "string", "pattern": f"^({'|'.join(f.__name__ for f in functions)})(:.*)?$"}
    names = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", NoneType: "null"}
    return {"type": names[kind]}


def _least(found: dict[str, Any], least: float) -> None:
    for each in found.get("anyOf", [found]):
        if each.get("type") in ("integer", "number"):
            each["minimum"] = least


def check(value: Any, expected: Mapping[str, Any], where: str) -> None:
    """Raises BadInput, which begins with `where`, unless `value` fits those keywords of JSON schema that are used here."""
    if isinstance(value, str) and value not in expected.get("enum", [value]):
        raise BadInput(f"{where}: there is no {value!r}; {nearest(value, [e for e in expected['enum'] if e])}")
    if not _fits(value, expected):
        raise BadInput(f"{where}: expected {_said(expected)}, got {json.dumps(value, ensure_ascii=False)}")
    if not isinstance(value, dict) or "properties" not in expected:
        return
    known = expected["properties"]
    for name, each in value.items():
        if name not in known:
            raise BadInput(f"{where}: there is no {name!r}; {nearest(name, known)}")
        check(each, known[name], f"{where}: {name}")
    for name in expected["required"]:
        if name not in value:
            raise BadInput(f"{where}: {name} is missing: {known[name].get('description') or _said(known[name])}")


def _fits(value: Any, expected: Mapping[str, Any]) -> bool:
    if "anyOf" in expected:
        return any(_fits(value, each) for each in expected["anyOf"])
    if "enum" in expected or "const" in expected:
        return value in expected.get("enum", [expected.get("const")])  # texts and null: no 1 that equals true
    kind = expected["type"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if "minimum" in expected and value < expected["minimum"]:
        return False
    if "pattern" in expected and not re.search(expected["pattern"], value):
        return False
    if kind == "array" and not expected.get("minItems", 0) <= len(value) <= expected.get("maxItems", len(value)):
        return False
    return "items" not in expected or all(_fits(each, expected["items"]) for each in value)


def _said(expected: Mapping[str, Any]) -> str:
    if "anyOf" in expected:
        return " or ".join(dict.fromkeys(_said(each) for each in expected["anyOf"]))
    if "enum" in expected or "const" in expected:
        listed = expected.get("enum", [expected.get("const")])
        return ("one of " if len(listed) > 1 else "") + ", ".join(map(str, listed))
    if "pattern" in expected:
        return "one of " + expected["pattern"][2:].partition(")")[0].replace("|", ", ") + " (then :option=value,...)"
    words = _WORDS[expected["type"]]
    if "maxItems" in expected:
        return f"{expected['maxItems']} {_said(expected['items']).partition(' ')[2]}s"
    if "minimum" in expected:
        words += f" of at least {expected['minimum']:g}"
    return words + (f" of {_said(expected['items'])}s" if "items" in expected else "")


def _from(base: Path, text: str) -> str:
    return str((base / Path(text).expanduser()).absolute())


def _range(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise BadInput(f"--range: expected the values of black and white, 0,1 say, got {text!r}") from None
    return [low, high]


def _of_yaml(text: str) -> str:
    """YAML as JSON: what has no counterpart there (dates, anchors, keys that are no texts) is refused."""
    try:
        import yaml
    except ImportError:
        raise BadInput("a description in YAML needs PyYAML; install it: pip install 'flowhelm[data]'") from None

    class Loader(yaml.SafeLoader):
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
