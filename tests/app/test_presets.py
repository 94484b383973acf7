"""Presets: which one serves, what their files hold, and how they are searched for."""

import json
import math
import warnings

import pytest
import torch
from PIL import Image

from flowhelm import GaussianFlow, operators
from flowhelm.app.errors import BadInput
from flowhelm.app.files.dataset import Pictures
from flowhelm.app.options.signature import bind, options, pick, plain
from flowhelm.app.options.words import worded
from flowhelm.app.restore import presets
from flowhelm.app.restore.presets import Preset, add, preset, read, settings, shipped
from flowhelm.app.restore.request import RestoreRequest
from flowhelm.app.restore.settle import settle
from flowhelm.app.run import drive
from flowhelm.bench.compare import search
from flowhelm.bench.compare.protocols import Task
from flowhelm.bench.compare.request import SearchRequest
from flowhelm.bench.compare.search import Range, ranges_of
from flowhelm.cards import METHODS
from flowhelm.known import PHOTOS

USUAL = {
    "method": "pnp_flow", "operator": "deblur", "operator_options": {"sigma": 1.6, "border": "circular"}, "std": 0.05,
    "prior": "photos", "options": {"rate": 1.5}, "steps": 64, "found": {"how": "x"},
}  # fmt: skip


def made(**changed):
    return Preset(**USUAL | changed)


def chosen(known, *, sigma=1.6, border="circular", std=0.05, prior="photos", method="pnp_flow"):
    return settings(method, "deblur", {"sigma": sigma, "border": border}, std, prior, known)


# --- which one serves ---


def test_the_nearest_preset_serves():
    known = [
        made(options={"rate": 1.0}),
        made(options={"rate": 2.0}, std=0.2),
        made(options={"rate": 3.0}, operator_options={"sigma": 3.0, "border": "circular"}, std=0.2),
        made(options={"rate": 4.0}, prior="fashion"),
        made(options={"rate": 5.0}, operator_options={"sigma": 1.6, "border": "open"}),
    ]
    assert chosen(known) == ({"rate": 1.0}, 64, "preset")
    assert chosen(known, std=0.11).options == {"rate": 2.0}  # by the ratio of the noise
    assert chosen(known, std=0.09).options == {"rate": 1.0}
    assert chosen(known, sigma=3.0).options == {"rate": 3.0}  # the operator's own numbers before the noise
    assert chosen(known, prior="fashion", std=0.2).options == {"rate": 4.0}
    assert chosen(known, prior="other").options == {"rate": 1.0}
    assert chosen(known, border="open").options == {"rate": 5.0}
    assert chosen([made()], border="open") == ({}, None, "default")  # another border is another problem
    assert chosen([made()], method="dps") == ({}, None, "default")


def test_a_strength_is_in_units_of_the_noise():
    known = [made(method="mpc_flow_dt", options={"strength": 0.5, "renoise": 0.1})]
    assert chosen(known, method="mpc_flow_dt", std=0.1).options == {"strength": pytest.approx(50.0), "renoise": 0.1}


def test_without_a_file_the_table_serves_its_own_method():
    assert chosen([], method="hqs") == (*preset("deblur", 0.05)[1:], "preset")
    assert chosen([], method="mpc_flow") == (*preset("deblur", 0.05, "natural")[1:], "preset")
    assert chosen([], method="pnp_flow") == ({}, None, "default")


def test_restore_does_what_it_did_and_takes_what_was_found(tmp_path, monkeypatch):
    def settled(**changed):
        usual = {
            "operator": "deblur", "operator_options": {"border": "circular"}, "std": 0.05, "simulate": True,
            "tile": 0,
        }  # fmt: skip
        return settle(RestoreRequest(photo=tmp_path / "photo.png", **usual | changed))

    usual = settled()
    assert (usual.method, usual.steps, usual.times) == (
        "hqs",
        presets.TABLE["deblur"][2],
        None,
    )  # its levels wait for the measurement
    natural = settled(look="natural")
    assert natural.method == "mpc_flow"
    assert natural.method_options.strength == pytest.approx(2 / 0.05**2)
    assert len(natural.times) == 51
    monkeypatch.setattr(presets, "shipped", lambda: (made(options={"rate": 1.5}, steps=7),))
    found = settled(method="pnp_flow")
    assert (found.method_options.rate, len(found.times)) == (1.5, 8)
    assert settled(method="pnp_flow", steps=3, method_options={"rate": "0.3"}).method_options.rate == 0.3
    assert settled().method_options == usual.method_options  # the default stays TABLE's


# --- files ---


def test_what_ships_is_of_this_library_and_says_where_it_comes_from():
    assert shipped()
    for each in shipped():
        method = pick("method", each.method, METHODS)
        builder = pick("operator", each.operator, operators.ALL)
        bind(method, each.options)
        given = each.operator_options  # of options that the operator has got since, the defaults
        assert plain(builder, given).items() >= given.items()
        assert settings(each.method, each.operator, given, each.std, each.prior, [each]).origin == "preset"
        assert each.steps >= 1
        assert each.found.get("pictures") or each.found.get("how")
        assert "/" not in each.found.get("data", "")
    assert all(str(p) for p in presets.lines())


def test_a_file_keeps_one_preset_for_each_purpose(tmp_path):
    path = tmp_path / "found.json"
    add(path, [made(), made(std=0.1)])
    add(path, [made(options={"rate": 9.0}), made(method="dps", options={"step": 2.0})])
    held = read(path)
    assert {(p.method, p.std): dict(p.options) for p in held} == {
        ("pnp_flow", 0.05): {"rate": 9.0}, ("pnp_flow", 0.1): {"rate": 1.5}, ("dps", 0.05): {"step": 2.0},
    }  # fmt: skip
    assert held == read(path)
    assert any("step 2.0" in line for line in presets.lines(path))


@pytest.mark.parametrize(
    "text",
    [
        "no json", "{", "[]", "[1]", "{}", '{"presets": null}', '{"presets": [{"method": "dps"}]}',
        '{"presets": [1]}', "\udcff\0",
    ]
    + [
        json.dumps({"presets": [USUAL | wrong]})
        for wrong in (
            *({"std": 0.0}, {"std": "x"}, {"steps": 0}, {"steps": 2.5}),
            *({"options": [1]}, {"operator_options": [1]}, {"found": 1}),
        )
    ],
)  # fmt: skip
def test_another_file_is_no_preset_file(tmp_path, text):
    (tmp_path / "found.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match="not a preset file"):
        read(tmp_path / "found.json")
    with pytest.raises(BadInput, match="does not exist"):
        read(tmp_path / "other.json")


# --- where a search looks ---


def test_every_positive_number_is_searched_around_its_default():
    found = ranges_of(worded("method", "pnp_flow", METHODS), [], 0.05)
    assert found == {"decay": Range(0.03, 3.0, True), "rate": Range(0.1, 10.0, True)}
    assert set(ranges_of(worded("method", "pnp_flow:rate=1", METHODS), [], 0.05)) == {"decay"}
    (strength,) = ranges_of(worded("method", "mpc_flow", METHODS), [], 0.05).values()
    assert (strength.low, strength.high) == pytest.approx(
        (25.0, 4000.0)
    )  # 1 / std^2 = 400, and the default is among them


def test_what_is_varied_can_be_said():
    dps = worded("method", "dps", METHODS)
    given = ["step=0.1:10:log", "start=0:0.2", "exact=true|false"]
    assert ranges_of(dps, given, 0.05) == {
        "step": Range(0.1, 10.0, True), "start": Range(0.0, 0.2), "exact": Range(choices=("true", "false")),
    }  # fmt: skip
    assert ranges_of(worded("method", "flow_dps", METHODS), ["inner=1:20:log"], 0.05)["inner"].whole
    for wrong in ("stop=1:2", "step", "step=1", "step=2:1", "step=0:1:log", "step=a:b", "step=1:inf"):
        with pytest.raises(BadInput, match="--vary"):
            ranges_of(dps, [wrong], 0.05)


# --- the search ---

PICTURES = Pictures(torch.zeros(2, 3, 16, 16), ("a.png", "b.png"), None, "apart.zip", "1" * 64)


class Named(GaussianFlow):
    name = "photos"
    about = {}  # noqa: RUF012


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A search whose score is a function of the options; returns the values tried."""
    pytest.importorskip("optuna")
    tried = []
    monkeypatch.setattr(search, "prior_for", lambda *_: Named(torch.zeros(768), torch.eye(768), shape=(3, 16, 16)))
    monkeypatch.setattr(search, "pictures_for", lambda *_: PICTURES)

    def go(
        out,
        *,
        trials=12,
        method="pnp_flow:decay=0.2",
        law=lambda o: -abs(math.log(o["rate"] / 4)),
        stop=None,
        **changed,
    ):
        def score(chosen, values, task, cells, known):
            if stop is not None and len(tried) == stop:
                raise KeyboardInterrupt
            full = {o.name: o.default for o in options(chosen.function).values()}
            tried.append(full | bind(chosen.function, {**chosen.given, **search._rounded(values)}))
            return law(tried[-1])

        monkeypatch.setattr(search, "_score", score)
        given = {"method": (method,), "operator": "deblur:border=circular", "std": 0.05, "data": tmp_path, "images": 2, "size": 16,
                 "trials": trials, "steps": 20, "seed": 3, "out": tmp_path / out}  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Optuna warns of what is out of range
            drive(search.search(SearchRequest(**(given | changed)), "flowhelm presets search"))
        return tried

    return go


def test_the_default_is_tried_first_and_the_best_is_kept(run, tmp_path):
    tried = run("found.json", trials=40)
    assert tried[0] == {"decay": 0.2, "rate": 1.0, "draws": 1}
    assert len(tried) == 40
    assert all(0.1 <= t["rate"] <= 10 and t["decay"] == 0.2 for t in tried)
    (found,) = read(tmp_path / "found.json")
    best = max(tried, key=lambda o: -abs(math.log(o["rate"] / 4)))
    assert found.options == {"decay": 0.2, "rate": best["rate"]}
    assert found.options["rate"] == pytest.approx(4, rel=0.1)  # forty samples of a smooth law over two decades
    assert (found.method, found.operator, found.std, found.steps) == ("pnp_flow", "deblur", 0.05, 20)
    assert found.operator_options == {"sigma": 1.6, "kernel": "gaussian", "angle": 0.0, "border": "circular"}
    assert found.found["default"] == pytest.approx(-math.log(4))
    assert found.found["best"] == pytest.approx(-abs(math.log(best["rate"] / 4)))
    said = {k: found.found[k] for k in ("pictures", "data", "sha256", "size", "seed", "trials", "score", "command")}
    assert said == {
        "pictures": ["a.png", "b.png"], "data": "apart.zip", "sha256": "1" * 64, "size": 16, "seed": 3, "trials": 40,
        "score": "psnr", "command": "flowhelm presets search",
    }  # fmt: skip


def test_what_would_be_taken_today_is_tried_second_so_that_no_search_ends_with_less(run, tmp_path):
    today = settings("pnp_flow", "deblur", {"sigma": 1.6, "border": "circular"}, 0.05, "photos").options
    tried = run("found.json", trials=2, law=lambda o: -abs(math.log(o["rate"] / today["rate"])))
    assert today["rate"] != 1
    assert [t["rate"] for t in tried] == [1.0, today["rate"]]
    assert read(tmp_path / "found.json")[0].options == {"decay": 0.2, "rate": today["rate"]}
    narrow = run("narrow.json", trials=3, vary=("rate=0.5:1.5",))[2:]  # out of its range it is no trial
    assert len(narrow) == 3
    assert all(0.5 <= t["rate"] <= 1.5 for t in narrow)


def test_a_search_that_was_stopped_goes_on_as_it_would_have(run, tmp_path):
    tried = run("whole.json")
    whole = list(tried)
    begun = len(whole)
    with pytest.raises(KeyboardInterrupt):
        run("cut.json", stop=begun + 1)  # the default was tried, what is taken today was not: it begins anew
    del tried[begun:]
    with pytest.raises(KeyboardInterrupt):
        run("cut.json", stop=begun + 5)
    run("cut.json")
    assert len(whole) == 12
    cut = run("cut.json")[begun:]  # once more: nothing is left to try
    assert cut == whole
    assert [p.options for p in read(tmp_path / "whole.json")] == [p.options for p in read(tmp_path / "cut.json")]
    more = run("cut.json", trials=14)[begun:]
    assert len(more) == 14


def test_another_seed_and_another_method_search_elsewhere(run, tmp_path):
    first = [t["rate"] for t in run("found.json")][2:]
    other = [t["rate"] for t in run("found.json", seed=4)][len(first) + 4 :]
    assert not set(first) & set(other)
    run("found.json", method="dps", law=lambda o: -o["step"], vary=("step=0.5:2",))
    assert {p.method for p in read(tmp_path / "found.json")} == {"pnp_flow", "dps"}


def test_a_strength_is_stored_in_units_of_the_noise_and_defaults_stay_where_nothing_is_better(run, tmp_path):
    run("found.json", method="mpc_flow:energy=flower", law=lambda o: -abs(math.log(o["strength"] / 800)), trials=40)
    (found,) = read(tmp_path / "found.json")
    assert found.options["energy"] == "flower"
    assert found.options["strength"] == pytest.approx(2, rel=0.15)
    assert settings("mpc_flow", "deblur", found.operator_options, 0.05, "photos", [found]).options[
        "strength"
    ] == pytest.approx(found.options["strength"] * 400)
    run("same.json", law=lambda o: -abs(math.log(o["rate"])))
    assert read(tmp_path / "same.json")[0].options == {"decay": 0.2}
    assert read(tmp_path / "same.json")[0].found["best"] == 0


def test_whole_numbers_and_words_can_be_searched(run, tmp_path):
    tried = run(
        "found.json", method="flow_dps", law=lambda o: -abs(o["inner"] - 6), vary=("inner=1:20:log",), trials=15
    )
    assert all(isinstance(t["inner"], int) for t in tried)
    assert read(tmp_path / "found.json")[0].options == {"inner": 6}
    run("word.json", method="dps", law=lambda o: float(o["exact"]), vary=("exact=true|false",), trials=6)
    assert read(tmp_path / "word.json")[0].options["exact"] in (True, "true")


def test_a_setting_that_fails_is_the_worst():
    def refuses(flow, y, x, times, *, rate: float = 1.0, noise=None):
        raise ValueError("no")
        yield

    flow = GaussianFlow(torch.zeros(768), torch.eye(768), shape=(3, 16, 16))
    task = Task("denoise", operators.denoise, {}, 0.2)
    cells = list(search.runner.cells(flow, [task], PICTURES, [0], 4, {}))
    chosen = worded("method", "refuses", [refuses])
    for score, worst in (("psnr", 0.0), ("ssim", -1.0)):
        assert search._score(chosen, {"rate": 2.0}, task, cells, {"steps": 2, "score": score}) == worst
    pnp = worded("method", "pnp_flow", METHODS)
    value = search._score(pnp, {"rate": 1.0}, task, cells, {"steps": 2, "score": "psnr"})
    assert 5 < value < 40


def test_quality_best_looks_more_often_where_it_gains(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")

    def settled(**changed):
        usual = {"operator": "demosaic", "std": 0.02, "threads": 1}
        return settle(RestoreRequest(photo=tmp_path / "photo.png", **usual | changed))

    for operator in ("demosaic", "deblur"):  # nothing to gain
        assert settled(operator=operator, quality="best") == settled(operator=operator)
    fast, best = (settled(operator="denoise", quality=quality) for quality in ("fast", "best"))
    assert (fast.steps, fast.method_options.ensemble, best.steps, best.method_options.ensemble) == (1, False, 1, True)
    for more in ({"steps": 9}, {"method": "hqs"}, {"look": "natural"}):
        with pytest.raises(BadInput, match="--quality best"):
            settled(quality="best", **more)


def test_a_number_as_quality_is_that_of_a_jpeg_file(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")
    given = {"photo": str(tmp_path / "photo.png"), "operator": "jpeg", "quality": "30"}
    found = settle(RestoreRequest.of(given, "restore"))
    assert found.operator_options.quality == 30
    assert settle(RestoreRequest.of(given | {"quality": "best", "operator_options": {"quality": 30}}, "restore")).steps
    with pytest.raises(BadInput, match="there is no '30'"):
        RestoreRequest.of(given | {"operator": "deblur"}, "restore")


def test_the_answer_is_weighed_where_nothing_but_noise_is_taken_out(tmp_path):
    """Stein's estimate is of white noise: what a compression has done is not."""
    for name in ("photo.png", "photo.jpg"):
        Image.effect_noise((64, 64), 20).convert("RGB").save(tmp_path / name, quality=98)

    def sure(name, **changed):
        usual = {"photo": tmp_path / name, "operator": "denoise", "prior": "photos", "std": 0.02, "threads": 1}
        return settle(RestoreRequest(**usual | changed)).method_options.model_dump().get("sure")

    assert sure("photo.png") is True
    assert sure("photo.png", method_options={"sure": False}) is False
    assert sure("photo.jpg") is True  # so much white noise was said
    assert sure("photo.png", std="auto") is True
    assert sure("photo.jpg", std="auto") is False
    assert sure("photo.jpg", std="auto", simulate=True) is True  # a clean picture, however it was kept
    assert sure("photo.png", operator="demosaic") is False
    assert (
        sure("photo.png", prior=PHOTOS) is False
    )  # one evaluation, where hardly anything is to be had by a second one
    assert sure("photo.png", prior=PHOTOS, quality="best") is True
