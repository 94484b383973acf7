"""From a name or a folder to a flow: its files (`hub`) read, quantised and placed. What can go wrong is said in one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .families import wrap
from .hub import NETWORK, downloaded, first_line, folder_of, index_of, networks, no_pickles, quiet, unused
from .pipeline import Pipeline

QUANTIZERS = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "torchao-int8": "torchao", "quanto-int8": "optimum.quanto"}
"""Name: the package that it needs. A path that ends in .gguf is one, too."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
    index = index_of(model, folder)
    if folder is None:
        folder = downloaded(str(model), index, variant, quantize)
    no_pickles(model, folder, index)
    if size is not None:
        _positive(size)
    with quiet():
        more = _quantized(model, folder, index, quantize, dtype, device)
        pipe = _read(model, folder, index, more, dtype, variant)
    _place(pipe, torch.device(device), torch.device(text_device or "cpu"), quantize, dtype)
    return wrap(pipe, size=size, checkpointing=checkpointing, tiling=tiling)


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
    given: dict[str, Any] = {name: None for name in unused(index)}
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
        raise ValueError(f"model {str(model)!r} cannot be loaded: {first_line(error)}") from error


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

    names = networks(index)
    if quantize.endswith(".gguf"):
        if not Path(quantize).is_file():
            raise ValueError(f"quantize: {quantize!r} does not exist; expected the .gguf file of the network's weights")
        _need("gguf")
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
            raise ValueError(f"quantize: {quantize!r} does not fit {str(model)!r} ({first_line(error)})") from error
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
        if encoder or QUANTIZERS.get(quantize or "") != "bitsandbytes" or not NETWORK.fullmatch(name):
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
