"""The recipes on small archives made here: what is trained on, what is told, and that a batch's number decides it all."""

import json
import zipfile

import numpy as np
import pytest
import torch
from encoded import encoded
from PIL import Image

from flowhelm import priors, recipes, train
from flowhelm.flow import Ends
from flowhelm.operators.jpeg import as_noise
from flowhelm.recipes.aerial import measured, prompt, told
from flowhelm.recipes.compressed import through_a_file
from flowhelm.recipes.recipe import from_photos
from flowhelm.recipes.scratched import scratched
from flowhelm.train import Batch


def picture(rng, height, width, grey=False):
    return encoded(rng.integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8))


@pytest.fixture
def archive(tmp_path):
    def make(names, height=128, width=128, grey=()):
        rng = np.random.default_rng(0)
        path = tmp_path / "pictures.zip"
        with zipfile.ZipFile(path, "w") as z:
            for name in names:
                z.writestr(name, picture(rng, height, width, name in grey))
        return path

    return make


def test_photos_never_trains_on_what_is_held_apart(tmp_path):
    """Each picture is one flat colour, which tells it in any crop."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as z:
        for i in range(30):
            z.writestr(f"p{i:02d}.png", encoded(Image.new("RGB", (100, 98), (i * 8, 0, 0))))
    recipe = recipes.photos(path, batch=16)
    seen = {part: {round(float(v + 1) * 127.5 / 8) for k in range(40) for v in data(k).clean[:, 0].amax((1, 2))}
            for part, data in (("train", recipe.data), ("apart", recipe.apart))}  # fmt: skip
    assert seen == {"train": set(range(6)), "apart": set(range(6, 30))}
    torch.testing.assert_close(recipe.data(7).clean, recipes.photos(path, batch=16).data(7).clean, rtol=0, atol=0)
    assert recipe.data(0).clean.shape == (16, 3, 96, 96)


def test_photos_of_two_archives_share_a_batch(tmp_path):
    """Half of the rows is of the second, at its own scale: of stripes as wide as a pixel nothing is lost. Of both some are held apart."""
    stripes = np.zeros((120, 120, 3), np.uint8)
    stripes[::2] = 255
    for name, shown in (("flat", Image.new("RGB", (120, 120), (128, 0, 0))), ("stripes", Image.fromarray(stripes))):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as z:
            for i in range(25):
                z.writestr(f"p{i:02d}.png", encoded(shown))
    recipe = recipes.photos(tmp_path / "flat.zip", beside=tmp_path / "stripes.zip", batch=5)
    for data in (recipe.data, recipe.apart):
        clean = data(3).clean
        assert clean.shape == (5, 3, 96, 96)
        assert (clean[:3].std((2, 3)) < 1e-5).all()
        assert (clean[3:].abs() == 1).all()
    with pytest.raises(ValueError, match="beside: expected more than 24 photographs"):
        recipes.photos(tmp_path / "flat.zip", beside=_few(tmp_path))
    with pytest.raises(ValueError, match="batch: expected at least 2"):
        recipes.photos(tmp_path / "flat.zip", beside=tmp_path / "stripes.zip", batch=1)


def _few(folder):
    with zipfile.ZipFile(folder / "few.zip", "w") as z:
        z.writestr("p.png", encoded(Image.new("RGB", (120, 120))))
    return folder / "few.zip"


def test_animals_reads_grey_pictures_as_colour(archive):
    names = [f"{part}/{folder}/{i}.JPEG" for part in ("train", "val") for folder in ("lion", "tabby") for i in range(4)]
    recipe = recipes.animals(archive(names, 64, 64, grey=names[:3]), batch=8)
    batch = recipe.data(0)
    assert batch.clean.shape == (8, 3, 64, 64)
    assert sorted(batch.condition[0].tolist()) == [7] * 4 + [10] * 4
    assert recipe.apart(0).condition[0].shape == (8,)


def test_fashion_is_padded_with_black(tmp_path):
    sets = {"train_images": np.full((64, 28, 28), 255, np.uint8), "train_labels": np.arange(64, dtype=np.uint8) % 10}
    np.savez(tmp_path / "f.npz", **sets, test_images=sets["train_images"], test_labels=sets["train_labels"])
    clean, (labels,), *_ = recipes.fashion(tmp_path / "f.npz", batch=10).data(0)
    assert clean.shape == (10, 1, 32, 32)
    assert (clean[:, :, 2:-2, 2:-2] == 1).all()
    assert int((clean == -1).sum()) == 10 * (32**2 - 28**2)
    assert labels.dtype == torch.int64


def test_digits_are_of_the_one_file_and_the_last_are_held_apart(tmp_path):
    images = np.zeros((2100, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(2100) // 10  # tells where it stood
    images[:, 0, 1] = np.arange(2100) % 10
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(2100) % 10)
    recipe = recipes.digits(tmp_path / "d.npz", batch=50)
    seen = {}
    for part, data, batches in (("train", recipe.data, 22), ("apart", recipe.apart, 20)):
        rows = [data(k) for k in range(batches)]
        clean = ((torch.cat([r.clean for r in rows])[:, 0, 2, 2:4] + 1) * 127.5).round().long()  # never mirrored
        assert torch.equal(clean[:, 1], torch.cat([r.condition[0] for r in rows]))
        seen[part] = sorted((clean @ torch.tensor([10, 1])).tolist())
    assert seen == {"train": list(range(1100)), "apart": list(range(1100, 2100))}
    for wrong, why in ((np.arange(2100) % 11, "labels 0 to 9"), (np.arange(2099) % 10, "labels")):
        np.savez(tmp_path / "d.npz", images=images, labels=wrong)
        with pytest.raises(ValueError, match=f"data: expected .*{why}"):
            recipes.digits(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", images=images[:1500], labels=np.zeros(1500))
    with pytest.raises(ValueError, match=r"data: expected at least 2000 digits .* got 1500"):
        recipes.digits(tmp_path / "d.npz")


class TestAerial:
    FOLDERS = ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking")

    def test_the_split_is_kept(self, archive, tmp_path):
        names = [f"{folder}/{i}.png" for folder in self.FOLDERS for i in range(4)]
        (tmp_path / "split.json").write_text(json.dumps({"test": names[::4]}))
        recipe = recipes.aerial(archive(names), tmp_path / "split.json", batch=7)
        first = recipe.apart(0)
        assert sorted(c.shape for c in first.condition) == [(7,), (7, 4), (7, 6)]
        every = torch.cat([recipe.data(k).clean for k in range(3)])  # one epoch: 21 pictures
        flipped = torch.cat([every, every.flip(-1)])
        apart = (first.clean[:, None] - flipped[None]).abs().amax((2, 3, 4))
        assert apart.min() > 0.1
        mean, std = (torch.tensor([v[i] for v in recipe.about["numbers"].values()]) for i in (0, 1))
        numbers = (measured(((every + 1) * 127.5).round().byte()) - mean) / std
        torch.testing.assert_close(numbers.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(numbers.std(0), torch.ones(4), atol=1e-3, rtol=0)

    def test_numbers_are_what_they_are_called(self):
        x = torch.zeros(1, 3, 8, 8)
        x[:, 1, :, ::2] = 255  # green stripes
        brightness, greenness, contrast, detail = measured(x.byte())[0].tolist()
        assert brightness == pytest.approx(1 / 6)
        assert greenness == pytest.approx(1 / 2)
        assert contrast == pytest.approx(float((x[0].mean(0) / 255).std()))
        assert detail == pytest.approx((0 + 1 / 3) / 2)  # no change downwards, a third at every step across
        purple = torch.zeros(1, 3, 8, 8)
        purple[:, 0], purple[:, 2] = 51, 102
        assert measured(purple.byte())[0, 1] == pytest.approx(-(0.2 + 0.4) / 2)

    def test_words_are_true(self):
        words = ("", *recipes.aerial.__globals__["WORDS"])
        named = [words[w] for w in prompt(3, torch.tensor([-1.0, 0.2, 0.9, -0.5]))]
        assert named == ["river", "lake", "dark", "contrasty", "smooth"]

    def test_shares_of_what_is_told(self):
        """Half the class alone, a tenth nothing, the rest prompts and numbers with gaps: to 4 standard errors."""
        n = 4000
        null = (torch.full((1,), 7), torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 4), torch.nan))
        batch = Batch(torch.zeros(n, 3, 2, 2), (torch.arange(n) % 7, torch.ones(n, 4)))
        labels, words, numbers = told(lambda k: batch, null, 0)(0).condition
        class_alone = (labels != 7) & (words == 0).all(1) & numbers.isnan().all(1)
        nothing = (labels == 7) & (words == 0).all(1) & numbers.isnan().all(1)
        for share, expected in ((class_alone, 0.5), (nothing, 0.1)):
            assert (
                abs(float(share.float().mean()) - expected) < 4 * (expected * (1 - expected) / n) ** 0.5 + 0.4 * 0.25**6
            )
        rest = ~class_alone & ~nothing
        assert abs(float(numbers[rest].isnan().float().mean()) - 0.25) < 0.02
        # a fixed number of true words a row: those with both kinds of gap show what is left out
        true = torch.tensor([len(prompt(int(k) % 7, torch.ones(4))) for k in range(n)])
        assert abs(float((words[rest] > 0).sum() / true[rest].sum()) - 0.75) < 0.02
        assert abs(float((labels[rest] == 7).float().mean()) - 0.6) < 4 * (0.24 / (0.4 * n)) ** 0.5
        assert (labels[labels != 7] == (torch.arange(n) % 7)[labels != 7]).all()


@pytest.mark.parametrize("name", ["photos", "animals", "aerial", "fashion", "digits"])
def test_wrong_data_is_one_sentence(name, tmp_path):
    wrong = tmp_path / "wrong.bin"
    wrong.write_bytes(b"nothing")
    (tmp_path / "split.json").write_text('{"test": []}')
    more = (tmp_path / "split.json",) if name == "aerial" else ()
    with pytest.raises(ValueError, match=r"^data: expected .*wrong.bin"):
        getattr(recipes, name)(wrong, *more)


def test_a_recipe_that_begins_with_photos_begins_as_photos():
    """Conditions are there, and have no effect yet."""
    net, start = from_photos(classes=3, numbers=2), priors.load("photos").net
    x, t = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.4, 0.7, 0.95])
    told = net(x, t, torch.tensor([0, 1, 2, 3]), torch.tensor([[0.5, torch.nan]] * 4))
    torch.testing.assert_close(told, start(x, t), rtol=1e-5, atol=1e-4)  # the other is laid out channels-last
    told.square().mean().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in (net.conditions[0].weight, net.conditions[1].layers[-1].weight))


def lone(tmp_path, files):
    path = tmp_path / "lone.zip"
    with zipfile.ZipFile(path, "w") as z:
        for name, data in files.items():
            z.writestr(name, data)
    return path


def test_what_is_wrong_inside_the_data_is_one_sentence(tmp_path):
    rng = np.random.default_rng(0)
    small, right = picture(rng, 32, 48), picture(rng, 64, 64)
    cases = (
        ({"train/unicorn/a.JPEG": right}, "expected the folders .* got train/unicorn"),
        ({"train/a.JPEG": right}, "got train/a.JPEG"),
        ({"train/lion/a.JPEG": small}, "pictures of 64 x 64, got 48 x 32 in 'train/lion/a.JPEG'"),
        ({"train/lion/a.JPEG": picture(rng, 64, 65)}, "got 65 x 64 in"),
        ({"train/lion/a.JPEG": b"no picture"}, "'train/lion/a.JPEG' .* is no readable picture"),
    )
    for files, message in cases:
        with pytest.raises(ValueError, match=message):
            recipes.animals(lone(tmp_path, files))
    for text in ("{", "[]", '{"other": []}', '{"test": 3}'):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(ValueError, match="split: expected JSON as"):
            recipes.aerial(lone(tmp_path, {"a/a.png": right}), tmp_path / "split.json")
    np.savez(tmp_path / "f.npz", train_images=np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(ValueError, match=r"data: expected .*train_images.*train_labels"):
        recipes.fashion(tmp_path / "f.npz")
    np.savez(tmp_path / "f.npz", train_images=np.zeros((3, 9, 9), np.uint8), train_labels=np.zeros(3))
    with pytest.raises(ValueError, match=r"got train_images of torch.uint8 \(3, 9, 9\)"):
        recipes.fashion(tmp_path / "f.npz")
    (tmp_path / "g.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"data: expected .*train_images"):
        recipes.fashion(tmp_path / "g.npz")


class TestBlind:
    def test_damage_is_of_its_row_and_its_number(self, archive):
        recipe = recipes.blind(archive([f"p{i:02d}.png" for i in range(26)], 40, 40), batch=6, patch=32)
        batch = recipe.data(3)
        (bad,) = batch.condition
        assert batch.clean.shape == bad.shape == (6, 3, 32, 32)
        torch.testing.assert_close(recipe.data(3).condition[0], bad, rtol=0, atol=0)
        assert not torch.equal(recipe.data(4).condition[0], bad)
        levels = (bad + 1) * 127.5
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
        assert bad.abs().max() <= 1
        assert ((bad - batch.clean).square().mean((1, 2, 3)) > 0).all()

    def test_a_network_begins_as_nothing_and_shows_what_it_does(self, archive):
        recipe = recipes.blind(archive([f"p{i:02d}.png" for i in range(26)], 40, 40), batch=2, patch=32)
        with torch.no_grad():
            rows = dict(recipe.shown(recipe.flow.net))
            loss = recipe.loss(recipe.flow, recipe.data(0), torch.Generator())
        assert list(rows) == ["damaged", "mean", "restored", "clean"]
        torch.testing.assert_close(rows["mean"], rows["damaged"])
        assert loss.shape == (2,)

    def test_too_few_pictures(self, archive):
        for recipe in (recipes.blind, recipes.codec):
            with pytest.raises(ValueError, match="expected more than 24 photographs of 64 pixels or more"):
                recipe(archive(["a.png"], 70, 70))


def test_a_compressor_is_shown_what_it_keeps(archive):
    path = archive([f"p{i:02d}.png" for i in range(26)], 40, 40)
    recipe = recipes.codec(path, batch=2, patch=32)
    with torch.no_grad():
        rows = dict(recipe.shown(recipe.flow.net))
        loss = recipe.loss(recipe.flow, recipe.data(0), torch.Generator())
    assert rows["decoded"].shape == rows["clean"].shape == (2, 3, 32, 32)
    assert loss.shape == (2,)
    assert loss.isfinite().all()
    with pytest.raises(ValueError, match="patch: expected a multiple of 16, got 24"):
        recipes.codec(path, patch=24)


def test_scratches_are_marked_where_they_lie_and_a_batch_s_number_decides_them(archive):
    made = recipes.scratches(archive([f"{i:02}.png" for i in range(26)]), batch=8, patch=64)
    first, again, other = made.data(0), made.data(0), made.data(1)
    (damage,) = first.condition
    assert torch.equal(first.clean, again.clean)
    assert not torch.equal(damage, other.condition[0])
    assert set(damage.unique().tolist()) == {0.0, 1.0}
    shares = torch.cat([made.data(i).condition[0].mean((1, 2, 3)) for i in range(4)])
    assert 0.05 < (shares == 0).float().mean() < 0.5  # pictures without any damage are among them
    odds = torch.where(damage > 0, 20.0, -20.0)
    right = made.loss(train.Alone(lambda picture: odds), first, None)
    wrong = made.loss(train.Alone(lambda picture: -odds), first, None)
    assert right.max() < 1e-6
    expected = 20 * (1 + 2 * damage.mean((1, 2, 3)))  # a damaged pixel counts as three
    torch.testing.assert_close(wrong, expected, rtol=1e-4, atol=1e-4)


def test_damage_of_a_scan_is_where_it_differs_from_the_clean_picture():
    clean = torch.zeros(1, 3, 96, 96)
    damaged, known = scratched(clean, 3, tint=0.2, least=0.5)
    assert (damaged - clean).abs().amax(1, keepdim=True)[
        known > 0
    ].max() < 0.15  # what is fainter than a tenth does not count
    assert (damaged - clean).abs().amax(1)[known[:, 0] == 0].mean() > 0.3


def test_the_noise_that_a_file_tells_of_is_that_of_an_even_grey():
    """There is no texture in it to be mistaken for noise."""
    grey = torch.zeros(3, 128, 128)
    for seed in range(8):
        clean, _, seen, true = through_a_file(grey, torch.Generator().manual_seed(seed))
        assert torch.equal(clean, grey)
        assert seen == pytest.approx(true, rel=0.1)


def test_what_a_file_lost_is_measured_in_units_of_its_level(archive):
    made = recipes.jpeg(archive([f"{i:02}.png" for i in range(26)]), batch=8, patch=64)
    first, again = made.data(0), made.data(0)
    found, level, unit = first.condition
    assert (unit >= as_noise(96)).all()
    assert torch.equal(found, again.condition[0])
    assert not torch.equal(found, made.data(1).condition[0])
    assert (level >= as_noise(96)).all()
    assert len(level.unique()) > 1
    levels = (found + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)  # pixels of a file

    class Knows:
        """E[clean | x_t] = x_t / t + off: what it is shown is the file's picture at the time 1 / (1 + level)."""

        off = 0.0

        def ends(self, x, t):
            torch.testing.assert_close((1 - t) / t, level)  # the noise of the state, as a share of the picture
            t = t.reshape(-1, 1, 1, 1)
            return Ends(torch.zeros_like(x), x / t + self.off)

    flow = Knows()
    error = (found - first.clean).square().mean((1, 2, 3))
    torch.testing.assert_close(made.loss(flow, first, None), error / unit**2)
    flow.off = first.clean - found
    assert made.loss(flow, first, None).max() < 1e-6
