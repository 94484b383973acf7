"""Tiny pipelines on disk, each saved once."""

import pytest
from families import pipe


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where a tiny pipeline was saved."""
    root, known = tmp_path_factory.mktemp("tiny"), set()

    def saved(name):
        if name not in known:
            pipe(name).save_pretrained(root / name)
            known.add(name)
        return str(root / name)

    return saved
