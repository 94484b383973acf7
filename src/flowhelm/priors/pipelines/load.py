"""From a name, a folder or a loaded pipeline to a flow. What can go wrong with a model of a stranger is said in one sentence."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..bundled import PICKLES
from .auraflow import AuraFlow
from .chroma import Chroma
from .cogview4 import CogView4
from .flux import Flux
from .flux2 import Flux2, Flux2Klein
from .glm_image import GlmImage
from .hidream import HiDream
from .hunyuan_image import HunyuanImage
from .ideogram4 import Ideogram4
from .krea2 import Krea2
from .longcat import LongCatImage
from .lumina2 import Lumina2
from .ovis import OvisImage
from .pipeline import Pipeline
from .pixart import PixArtAlpha, PixArtSigma
from .qwen import QwenImage, QwenImage21
from .sana import Sana
from .sd import StableDiffusion, StableDiffusionXL
from .sd3 import StableDiffusion3
from .z_image import ZImage

FAMILIES: tuple[type[Pipeline], ...] = (
    AuraFlow,
    Chroma,
    CogView4,
    Flux,
    Flux2,
    Flux2Klein,
    GlmImage,
    HiDream,
    HunyuanImage,
    Ideogram4,
    Krea2,
    LongCatImage,
    Lumina2,
    OvisImage,
    PixArtAlpha,
    PixArtSigma,
    QwenImage,
    QwenImage21,
    Sana,
    StableDiffusion,
    StableDiffusion3,
    StableDiffusionXL,
    ZImage,
)

QUANTIZERS = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "torchao-int8": "torchao", "quanto-int8": "optimum.quanto"}
"""Name: the package that it needs. A path that ends in .gguf is one, too."""
_NETWORK = re.compile(r"(unconditional_)?(transformer|unet)(_\d)?")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def family(pipe: Any) -> type[Pipeline]:
    """The family of a loaded pipeline, by the name of its class.

    Raises:
        ValueError: none of ours.
    """
    return _family(type(pipe).__name__)


def _family(name: str) -> type[Pipeline]:
    for each in FAMILIES:
        if name in each.classes:
            return each
    known = sorted(name for each in FAMILIES for name in each.classes)
    near = get_close_matches(name, known, 1, 0.8)
    raise ValueError(
        f"pipeline: there is no family for {name}; expected one of {len(known)} classes, from {known[0]} to {known[-1]} (the "
        f"documentation lists them){f'; the nearest is {near[0]}' if near else ''}. To add it, write a subclass of "
        "flowhelm.priors.pipelines.Pipeline with _ask and _text (see 'Adding a model' there)"
    )


def wrap(
    pipe: Any,
    *,
    size: tuple[int, int] | None = None,
    freeze: bool = True,
    checkpointing: bool = False,
    tiling: bool = False,
) -> Pipeline:
    """A loaded diffusers pipeline as a flow.

    Args:
        pipe: of a family in `FAMILIES`; its components are used where they are, in their dtype and on their device.
        size: (height, width) of the pictures in pixels; None for the family's own, which is large.
        freeze: put its networks in evaluation mode and switch their gradients off; gradients with respect to states and
            pictures stay. False leaves them as they are, to train them.
        checkpointing, tiling: see `load`.

    Raises:
        ValueError: an unknown family, a size that it cannot take, or something that its networks cannot do.
    """
    made = family(pipe)
    if freeze:
        for each in pipe.components.values():
            if isinstance(each, torch.nn.Module):
                each.eval().requires_grad_(False)
    flow = made(pipe, _usual(pipe) if size is None else size)
    if checkpointing:
        for part in (*flow.nets, pipe.vae):
            _enable(flow.name, part, "gradient_checkpointing")
    if tiling:
        _enable(flow.name, pipe.vae, "tiling")
    return flow


def _enable(name: str, part: Any, what: str) -> None:
    try:
        getattr(part, f"enable_{what}")()
    except (AttributeError, ValueError, NotImplementedError):
        raise ValueError(
            f"{name}: its {type(part).__name__} has no {what.replace('_', ' ')}; load it without"
        ) from None


def _usual(pipe: Any) -> tuple[int, int]:
    """The size that the pipeline itself would make."""
    net = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    for side in (getattr(pipe, "default_sample_size", None), getattr(net, "config", {}).get("sample_size")):
        if isinstance(side, int):
            return (side * pipe.vae_scale_factor,) * 2
    return (1024, 1024)


def load(
    model: str | Path,
    *,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    quantize: str | None = None,
    text_device: str | None = None,
    checkpointing: bool = False,
    tiling: bool = False,
    variant: str | None = None,
) -> Pipeline:
    """A pretrained pipeline by its hub name or folder, as a flow. Only safetensors are read, and no code of the model is run.

    Args:
        model: such as "black-forest-labs/FLUX.2-dev", which is fetched once; or a folder that `save_pretrained` wrote.
        size: see `wrap`.
        dtype: of the weights; None for bfloat16 on a GPU and float32 on the CPU. The state stays float32.
        device: where the network and the decoder are put.
        quantize: the network's weights in 4 or 8 bits: "nf4" or "int8" (bitsandbytes, a GPU), "torchao-int8", "quanto-int8", or the
            path of a .gguf file with its weights. The gradient with respect to the state stays; the function changes a little.
        text_device: where the text encoders are put; None for the CPU beside a GPU, where they run once for each text. See
            `Pipeline.without_encoders` to be rid of them.
        checkpointing: recompute the activations of network and decoder in the backward pass: the same gradients, less memory, a
            third more time where a method differentiates.
        tiling: decode and encode in overlapping tiles of the codec's own size. Less memory, but **another function**: tiles see less
            of their neighbourhood, and are blended where they meet. The layout depends on the size of the picture alone, so that every step
            of a method has the same function.
        variant: of the weights' files, such as "fp16".

    Raises:
        ValueError: one sentence for whatever is wrong: no pipeline, no known family, pickles only, no access, no network, a package or a
            GPU that is missing, a size that the family cannot take.
    """
    _need("diffusers", "transformers")
    dtype = dtype or (torch.bfloat16 if str(device).startswith("cuda") else torch.float32)
    if dtype not in DTYPES:
        names = ", ".join(str(each).removeprefix("torch.") for each in DTYPES)
        raise ValueError(f"model {str(model)!r}: expected a dtype of {names}, got {dtype}")
    folder = folder_of(model)
    index = _index(model, folder)
    if folder is None:
        folder = _downloaded(str(model), index, variant, quantize)
    _no_pickles(model, folder, index)
    if size is not None:
        _positive(size)
    with _quiet():
        more = _quantized(model, folder, index, quantize, dtype, device)
        pipe = _read(model, folder, index, more, dtype, variant)
    _place(pipe, torch.device(device), torch.device(text_device or "cpu"), quantize, dtype)
    return wrap(pipe, size=size, checkpointing=checkpointing, tiling=tiling)


# --- what a model is ------------------------------------------------------------------------------------------------------


def named(model: object) -> bool:
    """Whether this is the name of a pipeline: a folder, or a name of the hub such as "stabilityai/sdxl-turbo"; not a file."""
    if not isinstance(model, str | Path):
        return False
    place = Path(model)
    if place.is_dir():
        return True
    fits = isinstance(model, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", model)
    return bool(fits) and place.suffix.lower() not in (".safetensors", ".py", *PICKLES) and not place.exists()


def folder_of(model: str | Path) -> Path | None:
    """The folder of a local pipeline; None for a name of the hub.

    Raises:
        ValueError: neither.
    """
    place = Path(model)
    if place.is_dir():
        if not (place / "model_index.json").is_file():
            raise ValueError(
                f"model {str(model)!r}: the folder has no model_index.json; expected a whole pipeline as diffusers' "
                "save_pretrained writes it, with transformer or unet, vae and text encoders beside that file"
            )
        return place
    if not named(model):
        raise ValueError(
            f"model {str(model)!r}: expected a folder with model_index.json, or a name of the hub such as 'org/name'"
        )
    return None


def _index(model: str | Path, folder: Path | None) -> dict[str, Any]:
    """What the pipeline consists of; the family is known."""
    path = folder / "model_index.json" if folder else _fetched(str(model))
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        name = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"model {str(model)!r}: its model_index.json cannot be read ({_first(error)})") from None
    _family(name if isinstance(name, str) else str(name))  # a list is code of the model's own
    return index


def _fetched(model: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, "model_index.json"))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            _hub(model, error)
        raise ValueError(
            f"model {model!r} is on the hub, but has no model_index.json: it is no pipeline of diffusers; look for a repository that "
            "ends in -diffusers"
        ) from None
    except Exception as error:  # the hub's, the network's, the disk's
        _hub(model, error)


def cached(model: str) -> Path:
    """The folder of a pipeline that was loaded before: its own, or the hub's in the cache. ValueError if there is none."""
    folder = folder_of(model)
    if folder is not None:
        return folder
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "model_index.json", local_files_only=True)).parent
    except Exception as error:
        _hub(model, error)


def _downloaded(model: str, index: Mapping[str, Any], variant: str | None, quantize: str | None) -> Path:
    """Where a pipeline of the hub lies after everything that is needed of it was fetched."""
    from diffusers import DiffusionPipeline

    left: dict[str, Any] = {name: None for name in _unused(index)}
    if quantize and quantize.endswith(".gguf"):
        left |= {_networks(index)[0]: None}
    try:
        with _quiet():
            return Path(DiffusionPipeline.download(model, use_safetensors=True, variant=variant, **left))
    except Exception as error:
        _hub(model, error)


def _hub(model: str, error: BaseException) -> NoReturn:
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


def _unused(index: Mapping[str, Any]) -> list[str]:
    """Parts that flowhelm never asks: the network is called, not the pipeline."""
    return [name for name in ("safety_checker", "feature_extractor", "image_encoder") if name in index]


def _networks(index: Mapping[str, Any]) -> list[str]:
    """The first is the one that a .gguf file holds."""
    return sorted(name for name in index if _NETWORK.fullmatch(name) and index[name][0])


def _no_pickles(model: str | Path, folder: Path, index: Mapping[str, Any]) -> None:
    for name in index:
        files = [p for p in (folder / name).glob("*") if p.is_file()] if (folder / name).is_dir() else []
        held = [p.name for p in files if p.suffix.lower() in PICKLES]
        if held and name not in _unused(index) and not any(p.suffix == ".safetensors" for p in files):
            raise ValueError(
                f"model {str(model)!r}: the weights of its {name} are a pickle ({held[0]}), which can run any code when it is read; "
                "expected .safetensors: get these from whom you trust, or have them write them with save_pretrained"
            )


# --- reading it -----------------------------------------------------------------------------------------------------------


def _read(
    model: str | Path,
    folder: Path,
    index: Mapping[str, Any],
    more: Mapping[str, Any],
    dtype: torch.dtype,
    variant: str | None,
) -> Any:
    import diffusers

    builder = getattr(diffusers, index["_class_name"], None)
    if builder is None:
        raise ValueError(
            f"model {str(model)!r}: diffusers {diffusers.__version__} has no {index['_class_name']}; mend it with: pip install -U diffusers"
        )
    given: dict[str, Any] = {name: None for name in _unused(index)}
    for name, parameter in inspect.signature(builder.__init__).parameters.items():
        entry = index.get(name, (None, None))
        needed = parameter.default is parameter.empty and parameter.kind != parameter.VAR_KEYWORD
        if name != "self" and needed and isinstance(entry, list | tuple) and entry[0] is None:
            given[name] = None  # saved without: it must be said
    if "requires_safety_checker" in inspect.signature(builder.__init__).parameters:
        given["requires_safety_checker"] = False  # else its absence is complained about
    try:
        return builder.from_pretrained(
            str(folder), use_safetensors=True, variant=variant, **{_word(): dtype}, **given | dict(more)
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # diffusers, transformers, safetensors and the disk raise what they like
        raise ValueError(f"model {str(model)!r} cannot be loaded: {_first(error)}") from error


def _quantized(
    model: str | Path,
    folder: Path,
    index: Mapping[str, Any],
    quantize: str | None,
    dtype: torch.dtype,
    device: str,
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that bring the network in fewer bits."""
    if quantize is None:
        return {}
    import diffusers

    names = _networks(index)
    if quantize.endswith(".gguf"):
        _need("gguf")
        if not Path(quantize).is_file():
            raise ValueError(f"quantize: {quantize!r} does not exist; expected the .gguf file of the network's weights")
        kind: Any = getattr(diffusers, index[names[0]][1], None)
        if not hasattr(kind, "from_single_file"):
            raise ValueError(f"quantize: diffusers reads no .gguf for {index[names[0]][1]}; load the model without")
        whole = folder if (folder / names[0]).is_dir() else model
        try:
            net = kind.from_single_file(
                quantize, config=str(whole), subfolder=names[0],
                quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype), **{_word(): dtype},
            )  # fmt: skip
        except Exception as error:
            raise ValueError(f"quantize: {quantize!r} does not fit {str(model)!r} ({_first(error)})") from error
        return {names[0]: net}
    if quantize not in QUANTIZERS:
        raise ValueError(f"quantize: expected {', '.join(QUANTIZERS)} or a .gguf file, got {quantize!r}")
    _need(QUANTIZERS[quantize])
    if QUANTIZERS[quantize] == "bitsandbytes" and not (torch.cuda.is_available() and str(device).startswith("cuda")):
        raise ValueError(f"quantize: {quantize!r} needs a GPU (device='cuda'); on the CPU use 'torchao-int8'")
    config: Any
    if quantize == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig

        config = diffusers.TorchAoConfig(Int8WeightOnlyConfig())
    elif quantize == "quanto-int8":
        config = diffusers.QuantoConfig(weights_dtype="int8")
    elif quantize == "int8":
        config = diffusers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = diffusers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return {"quantization_config": diffusers.PipelineQuantizationConfig(quant_mapping={n: config for n in names})}


def _place(pipe: Any, device: torch.device, text: torch.device, quantize: str | None, dtype: torch.dtype) -> None:
    parts: dict[str, Any] = pipe.components
    for name, each in parts.items():
        if not isinstance(each, torch.nn.Module):
            continue
        encoder = name.startswith("text_encoder")
        if name == "vae" and dtype == torch.float16 and parts[name].config.get("force_upcast"):
            each.float()  # it overflows in half precision
        if encoder or QUANTIZERS.get(quantize or "") != "bitsandbytes" or not _NETWORK.fullmatch(name):
            each.to(text if encoder and device.type == "cuda" else device)


def _need(*packages: str) -> None:
    for package in packages:
        try:
            found = find_spec(package) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            extra = "models" if package in ("diffusers", "transformers") else "quant"
            shown = {"optimum.quanto": "optimum-quanto"}.get(package, package)
            raise ValueError(f"pipelines: {shown} is not installed; mend it with: pip install 'flowhelm[{extra}]'")


def _word() -> str:
    """What `from_pretrained` calls the dtype."""
    import diffusers

    return "dtype" if tuple(int(n) for n in diffusers.__version__.split(".")[:2]) >= (0, 42) else "torch_dtype"


def _positive(size: tuple[int, int]) -> None:
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"size: expected (height, width) in pixels, got {size}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and bars of diffusers and transformers; what goes wrong is raised. Downloads keep their bars."""
    from diffusers.utils import logging as one
    from transformers.utils import logging as other

    levels = [each.get_verbosity() for each in (one, other)]
    for each in (one, other):
        each.set_verbosity(each.CRITICAL)
        each.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for each, level in zip((one, other), levels, strict=True):
            each.set_verbosity(level)
            each.enable_progress_bar()


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
