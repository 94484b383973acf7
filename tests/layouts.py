"""Names and shapes of published checkpoints, stated anew, at small widths."""

import math

import torch


def drawn(shapes, seed=0):
    """Weights of a checkpoint: as large as those of a trained network, so that every one of them counts."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape):
        return (
            torch.randn(shape, generator=generator)
            / max(1, math.prod(shape[1:])) ** 0.5
            * (1 if len(shape) > 1 else 0.3)
        )

    return {name: one(shape) + float(len(shape) == 1 and name.endswith("weight")) for name, shape in shapes.items()}


def layer(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def pnp_flow_shapes(widths=(32, 64), blocks=1, attention=(False, True), channels=3):
    base, time, shapes = widths[0], 4 * widths[0], {}

    def block(name, before, after):
        shapes.update(
            layer(f"{name}.temb_proj", after, time) | layer(f"{name}.norm1", before) | layer(f"{name}.norm2", after)
        )
        shapes.update(layer(f"{name}.conv1", after, before, 3, 3) | layer(f"{name}.conv2", after, after, 3, 3))
        if before != after:
            shapes.update(layer(f"{name}.shortcut", after, before, 1, 1))

    def attend(name, width):
        shapes.update(layer(f"{name}.norm", width))
        for each in ("attn_q", "attn_k", "attn_v", "proj_out"):
            shapes.update(layer(f"{name}.{each}", width, width, 1, 1))

    shapes.update(
        layer("temb_net.main.0", time, base)
        | layer("temb_net.main.2", time, time)
        | layer("begin_conv", base, channels, 3, 3)
    )
    width, skips, last = base, [base], len(widths) - 1
    for k, after in enumerate(widths):
        for i in range(blocks):
            block(f"down_modules.{k}.{k}a_{i}a_block", width, after)
            if attention[k]:
                attend(f"down_modules.{k}.{k}a_{i}b_attn", after)
            width = after
            skips.append(width)
        if k < last:
            shapes.update(layer(f"down_modules.{k}.{k}b_downsample", width, width, 3, 3))
            skips.append(width)
    block("mid_modules.0", width, width)
    attend("mid_modules.1", width)
    block("mid_modules.2", width, width)
    for k in reversed(range(len(widths))):
        for i in range(blocks + 1):
            block(f"up_modules.{last - k}.{k}a_{i}a_block", width + skips.pop(), widths[k])
            if attention[k]:
                attend(f"up_modules.{last - k}.{k}a_{i}b_attn", widths[k])
            width = widths[k]
        if k:
            shapes.update(layer(f"up_modules.{last - k}.{k}b_upsample.up_conv", width, width, 3, 3))
    return shapes | layer("end_conv.0", width) | layer("end_conv.2", channels, width, 3, 3)


def sit_shapes(width=32, blocks=2, size=8, patch=2, classes=11, channels=4):
    shapes = layer("x_embedder.proj", width, channels, patch, patch) | {"pos_embed": (1, (size // patch) ** 2, width)}
    shapes |= {"y_embedder.embedding_table.weight": (classes, width)}
    shapes |= layer("t_embedder.mlp.0", width, 256) | layer("t_embedder.mlp.2", width, width)
    for k in range(blocks):
        at = f"blocks.{k}"
        shapes |= layer(f"{at}.attn.qkv", 3 * width, width) | layer(f"{at}.attn.proj", width, width)
        shapes |= layer(f"{at}.mlp.fc1", 4 * width, width) | layer(f"{at}.mlp.fc2", width, 4 * width)
        shapes |= layer(f"{at}.adaLN_modulation.1", 6 * width, width)
    shapes |= layer("final_layer.adaLN_modulation.1", 2 * width, width)
    return shapes | layer("final_layer.linear", patch**2 * 2 * channels, width)
