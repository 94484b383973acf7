"""A solid written as PLY is read back as it was."""

import numpy as np
import pytest
import torch

from flowhelm.app.errors import BadInput
from flowhelm.app.files.ply import put_ply, put_solid
from flowhelm.priors.triplane import grid


def read(path):
    head, _, body = path.read_bytes().partition(b"end_header\n")
    words = head.decode("ascii").split()
    assert words[:3] == ["ply", "format", "binary_little_endian"]
    count, faces = (int(words[words.index(kind) + 1]) for kind in ("vertex", "face"))
    points = np.frombuffer(body, "<f4", 3 * count).reshape(count, 3)
    rows = np.frombuffer(body, [("count", "u1"), ("corners", "<i4", 3)], offset=12 * count)
    assert len(rows) == faces
    assert (rows["count"] == 3).all()
    return points, rows["corners"]


def test_triangles_come_back(tmp_path):
    points, faces = np.random.default_rng(0).normal(size=(5, 3)).astype("f4"), np.array([[0, 1, 2], [4, 3, 2]])
    put_ply(tmp_path / "a.ply", points, faces)
    found = read(tmp_path / "a.ply")
    assert np.array_equal(found[0], points)
    assert np.array_equal(found[1], faces)


def test_the_surface_of_a_ball_is_a_sphere(tmp_path):
    pytest.importorskip("skimage")
    n, centre = 24, torch.tensor([0.1, -0.2, 0.05])
    volume = torch.sigmoid(-2 * n * ((grid(n) - centre).norm(dim=1) - 0.6)).view(n, n, n)
    count = put_solid(tmp_path / "ball.ply", volume)
    points, faces = read(tmp_path / "ball.ply")
    assert len(faces) == count
    radii = np.linalg.norm(points - centre.numpy(), axis=1)
    assert np.abs(radii - 0.6).max() < 0.5 / n
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # closed
    a, b, c = (points[faces[:, k]] for k in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6 == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.02)


def test_nothing_has_no_surface(tmp_path):
    pytest.importorskip("skimage")
    with pytest.raises(BadInput, match="no surface"):
        put_solid(tmp_path / "none.ply", torch.zeros(4, 4, 4))
    assert not list(tmp_path.iterdir())
