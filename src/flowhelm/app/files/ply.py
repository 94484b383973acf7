"""Solids as PLY files, which Blender, MeshLab and most viewers open."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import BadInput
from .atomic import put


def put_solid(path: Path, volume: Tensor) -> int:
    """Writes the surface where occupancies `(n, n, n)` of [-1, 1]^3 cross 1/2, by marching cubes; returns how many triangles it has.

    Raises:
        BadInput: nothing is occupied, or everything. Unwritable: the file cannot be written. ImportError: without scikit-image.
    """
    from skimage.measure import marching_cubes

    n = volume.shape[-1]
    padded = np.pad(volume.detach().cpu().float().numpy(), 1)  # so that what touches the border is closed
    if not padded.min() < 0.5 < padded.max():
        raise BadInput(
            f"{str(path)!r}: the volume has no surface (its greatest occupancy is {padded.max():.2f}); draw again"
        )
    cells, faces, *_ = marching_cubes(padded, 0.5)
    put_ply(path, (2 * cells - 1) / n - 1, faces[:, ::-1])  # outward
    return len(faces)


def put_ply(path: Path, vertices: np.ndarray[Any, Any], faces: np.ndarray[Any, Any]) -> None:
    """Writes triangles `(m, 3)` between vertices `(k, 3)`, binary, whole or not at all."""
    head = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    rows["count"], rows["corners"] = 3, faces
    data = head.encode("ascii") + np.ascontiguousarray(vertices, "<f4").tobytes() + rows.tobytes()
    put(path, lambda temporary: temporary.write_bytes(data))
