"""The HTTP endpoint: the command line's numbers, and everything that a stranger may send."""

import base64
import html
import io
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from encoded import encoded, png
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient
from jobs import endless, failing

from flowhelm import operators
from flowhelm.app.errors import BadInput
from flowhelm.app.models.request import ModelRequest
from flowhelm.app.options.signature import options
from flowhelm.app.restore.request import PictureRequest
from flowhelm.app.restore.restorer import Restorer
from flowhelm.cards import RESTORE_OR_STEER
from flowhelm.interfaces.cli import main
from flowhelm.interfaces.http import app as served
from flowhelm.interfaces.http import serve as serving
from flowhelm.interfaces.http.app import application
from flowhelm.interfaces.http.request import Limits, ServeRequest
from flowhelm.interfaces.http.work import opened
from flowhelm.interfaces.worker import Worker

HERE = "http://127.0.0.1:8000"
FAST = {"operator": "denoise", "steps": "2"}


@pytest.fixture(scope="module")
def picture() -> bytes:
    y, x = np.mgrid[0:24, 0:32]
    return encoded(np.stack([x * 7, y * 9, (x + y) * 4], -1).astype(np.uint8))


@pytest.fixture(scope="module")
def mask() -> bytes:
    known = np.full((24, 32), 255, np.uint8)
    known[5:9, 10:20] = 0
    return encoded(known)


@pytest.fixture(scope="module")
def restorer(prior) -> Restorer:
    return Restorer(prior, threads=1, limit=100_000)


@pytest.fixture(scope="module")
def model(prior) -> ModelRequest:
    return ModelRequest(prior=prior, threads=1)


@pytest.fixture(scope="module")
def worker(model):
    found = Worker(opened, model.model_dump(), 100_000, 8e9, memory=8e9, tries=3)
    yield found
    found.close()


@pytest.fixture
def client(worker, model):
    with TestClient(application(worker, model, limits=Limits(megabytes=1.0)), base_url=HERE) as found:
        yield found


@pytest.fixture
def other():
    """Makes workers that do what a test wants."""
    made = []

    def make(target, *args, **how):
        made.append(Worker(target, *args, **how))
        return made[-1]

    yield make
    for each in made:
        each.close()


def begun(folder):
    while not (folder / "begun").exists():
        time.sleep(0.01)


def asks(client, picture, fields=FAST, files=(), **given):
    return client.post("/restore", data=fields, files={"picture": ("p.png", picture), **dict(files)}, **given)


def refused(answer, status, said):
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert said in detail
    assert "\n" not in detail
    assert "--" not in detail


# --- results ---


def test_the_numbers_are_those_of_the_command_line(client, picture, prior, tmp_path):
    (path := tmp_path / "photo.png").write_bytes(picture)
    words = "--operator deblur --sigma 1.2 --std 0.05 --steps 3 --seed 7 --threads 1"
    assert main(["restore", str(path), "--prior", prior, *words.split()]) == 0
    run = json.loads((tmp_path / "photo.run.json").read_text())
    fields = {"operator": "deblur", "sigma": "1.2", "std": "0.05", "steps": "3", "seed": "7"}
    nested = {"operator": "deblur", "operator_options": {"sigma": 1.2}, "std": 0.05, "steps": 3, "seed": 7}
    for form in (
        fields,
        {"settings": json.dumps(nested)},
        {"settings": json.dumps({**nested, "operator_options": {}}), "sigma": "1.2"},
    ):
        answer = asks(client, picture, form)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == (tmp_path / "photo.restored.png").read_bytes()
        facts = json.loads(answer.headers["x-flowhelm-run"])
        assert facts["sha256"] == run["result"]["sha256"]
        assert (facts["method"], facts["steps"], facts["seed"], facts["prior"]) == ("hqs", 3, 7, "tiny")
    whole = asks(client, picture, fields, headers={"Accept": "application/json"}).json()
    assert base64.b64decode(whole["picture"]) == answer.content
    assert whole["result"]["sha256"] == run["result"]["sha256"]
    assert whole["settings"]["operator_options"] == {"sigma": 1.2, "kernel": "gaussian", "angle": 0.0, "border": "open"}
    assert str(tmp_path.parent) not in json.dumps(whole)  # no path of this machine


def test_masks_and_kernels_are_uploaded(client, restorer, picture, mask):
    answer = asks(client, picture, {**FAST, "operator": "inpaint"}, {"mask": ("m.png", mask)})
    expected = restorer(
        Image.open(io.BytesIO(picture)), "inpaint", steps=2, operator_options={"mask": Image.open(io.BytesIO(mask))}
    )
    assert json.loads(answer.headers["x-flowhelm-run"])["sha256"] == expected.sha256
    np.save(data := io.BytesIO(), kernel := np.random.default_rng(0).random((3, 5)))
    answer = asks(client, picture, {**FAST, "operator": "motion"}, {"kernel": ("k.npy", data.getvalue())})
    expected = restorer(Image.open(io.BytesIO(picture)), "motion", steps=2, operator_options={"kernel": kernel})
    assert json.loads(answer.headers["x-flowhelm-run"])["sha256"] == expected.sha256


def test_a_simulation_is_scored_and_a_method_is_chosen(client, picture):
    fields = {"operator": "box", "size": "6", "simulate": "true", "steps": "2", "method": "pnp_flow", "rate": "0.5"}
    answer = asks(client, picture, fields, headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    whole = answer.json()
    assert whole["settings"]["method_options"]["rate"] == 0.5
    assert whole["result"]["psnr"] > 0


def test_what_there_is(client, restorer):
    for place, functions in (("/operators", operators.ALL), ("/methods", RESTORE_OR_STEER)):
        found = client.get(place).json()
        assert list(found) == [f.__name__ for f in functions]
        assert all(part["title"] and part["options"]["type"] == "object" for part in found.values())
    assert client.get("/operators").json()["inpaint"]["files"] == ["mask"]
    assert client.get("/operators").json()["inpaint"]["options"]["properties"].keys() == {"invert_mask"}
    assert client.get("/operators").json()["deblur"]["options"]["properties"]["sigma"]["default"] == 1.6
    health = client.get("/health").json()
    assert (health["status"], health["prior"], health["running"], health["waiting"]) == ("ok", "tiny", 0, 0)


def test_openapi_says_what_is_true(client):
    whole = client.get("/openapi.json").json()
    post = whole["paths"]["/restore"]["post"]
    assert set(post["responses"]) == {"200", *map(str, served.REFUSALS)}
    assert set(post["responses"]["200"]["content"]) == {"image/png", "application/json"}
    for status in map(str, served.REFUSALS):
        assert post["responses"][status]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
    form = post["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["picture"]
    assert set(form["properties"]["settings"]["properties"]) == set(PictureRequest.model_fields)
    # a field for everything that may be set, and each says what it is
    known = {name for f in (*operators.ALL, *RESTORE_OR_STEER) for name in options(f)} | set(
        PictureRequest.model_fields
    )
    assert set(form["properties"]) == known - {"operator_options", "method_options"} | {"picture", "settings"}
    assert all(each["description"] for each in form["properties"].values())
    settings = form["properties"]["settings"]["properties"]
    assert all(each["description"] for each in settings.values())
    assert (settings["warm"]["anyOf"][0]["exclusiveMaximum"], settings["operator"]["enum"][0]) == (
        1,
        operators.ALL[0].__name__,
    )
    for schema in whole["components"]["schemas"].values():
        assert all(each.get("description") for each in schema["properties"].values())
    assert set(whole["paths"]) == {"/restore", "/methods", "/operators", "/health"}
    assert "422" not in whole["paths"]["/health"]["get"]["responses"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"operator": "debllur"}, "did you mean deblur"),
        ({"method": "dpss"}, "did you mean dps"),
        ({"sigmaa": "2"}, "there is no field 'sigmaa'; did you mean sigma"),
        ({"std": "much"}, "std: expected one of auto or a number, got 'much'"),
        ({"std": "-1"}, "std: expected a number above 0"),
        ({"std": "nan"}, "std: expected one of auto or a number"),
        ({"steps": "0"}, "steps: expected a whole number of at least 1"),
        ({"steps": "100000"}, "steps: expected at most 1000"),
        ({"sigma": "1e9"}, "of at most 200"),
        ({"settings": "{"}, "settings: expected JSON"),
        ({"settings": "[]"}, "settings: expected an object"),
        ({"settings": '{"std": NaN}'}, "settings: expected JSON"),
        ({"settings": '{"std": 1, "std": 2}'}, "given twice"),
        ({"settings": '{"stdd": 1}'}, "did you mean std"),
        ({"settings": '{"operator": "debllur"}'}, "did you mean deblur"),
        ({"settings": '{"operator": "box", "method": "dpss"}'}, "did you mean dps"),
        ({"settings": '{"operator": "deblur", "operator_options": {"sigmaa": 1}}'}, "did you mean sigma"),
        ({"settings": '{"std": 0.1}', "std": "0.1"}, "'std' stands in the settings and as a field"),
        (
            {"settings": '{"operator": "deblur", "operator_options": {"sigma": 1}}', "sigma": "1"},
            "'sigma' is given twice",
        ),
        ({"operator": "inpaint", "mask": "/etc/hostname"}, "a file of the server is not read; upload it"),
        ({"operator": "motion", "operator-kernel": "/etc/hostname"}, "a file of the server is not read"),
        (
            {"settings": '{"operator": "inpaint", "operator_options": {"mask": "/etc/hostname"}}'},
            "a file of the server is not read",
        ),
        ({"operator": "inpaint"}, "inpaint needs mask"),
        ({"prior": "fashion"}, "there is no field 'prior'"),
        ({"settings": '{"prior": "/etc/hostname"}'}, "settings has no 'prior'"),
        ({"settings": '{"watch": "x"}'}, "settings has no 'watch'"),
        ({"operator": "phase"}, "add simulate"),
    ],
)
def test_a_wrong_setting_is_a_sentence(client, picture, fields, said):
    refused(asks(client, picture, fields if "settings" in fields else {"operator": "deblur"} | fields), 422, said)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"settings": "[" * 100_000}, 422, "nested too deeply"),
        ({"settings": '{"operator_options":' + "[" * 5000 + "]" * 5000 + "}"}, 422, "nested too deeply"),
        ({"settings": '{"a":' * 5000}, 422, "nested too deeply"),
        ({"settings": '{"seed":' + "9" * 10_000 + "}"}, 422, "settings: expected JSON"),
        ({"seed": "9" * 10_000}, 422, "seed: expected a whole number"),
        ({"operator": "de\0noise"}, 422, "did you mean denoise"),
        (
            {"inner": "adam:rate=1e300", "operator": "jpeg", "operator-quality": "20", "method": "mpc_flow"},
            422,
            "too large to compute with",
        ),
        ({"operator": "deblur", "sigma": "1e-300"}, 200, ""),
        ({"operator": "deblur", "sigma": "5e-324"}, 200, ""),
        ({"operator": "blur_linear_light", "sigma": "1e-300"}, 200, ""),
        ({"method": "mpc_flow", "warm": "1e-300"}, 200, ""),
        ({"tile": "9" * 30}, 200, ""),
    ],
)
def test_hostile_settings(client, picture, fields, status, said):
    answer = asks(
        client, picture, {"steps": "2"} | ({"operator": "denoise"} if "settings" not in fields else {}) | fields
    )
    assert answer.status_code == status, answer.text
    if status != 200:
        refused(answer, status, said)


@pytest.mark.parametrize("name", ["Host", "Origin"])
@pytest.mark.parametrize(
    "value", ["[::1", "http://[::1", "http://[v1.x]", "http://", "//", "http://127.0.0.1:8000@evil.example", ""]
)
def test_hostile_hosts(client, worker, model, picture, name, value):
    refused(asks(client, picture, headers={name: value}), 403, "")
    with TestClient(application(worker, model, token="a", local=False), base_url=HERE) as open_:
        for place in ("/", "/docs/", "/health", "/nowhere"):
            assert open_.get(place, headers={name: value}, follow_redirects=False).status_code < 500


@pytest.mark.parametrize(
    "array",
    [
        np.ones((3, 3), complex), np.ones((3, 3), "datetime64[s]"), np.zeros((3, 3), [("a", int)]), np.zeros((3, 3), "V8"),
        np.full((3, 3), "x"), np.zeros((0, 3)), np.full((3, 3), np.nan), np.zeros((3, 3)), -np.ones((3, 3)),
    ],
    ids=lambda array: f"{array.dtype} {array.flat[:1]}",
)  # fmt: skip
def test_hostile_arrays(client, picture, array):
    np.save(data := io.BytesIO(), array, allow_pickle=False)
    for operator, file in (("motion", "kernel"), ("inpaint", "mask")):
        answer = asks(client, picture, {**FAST, "operator": operator}, {file: ("k.npy", data.getvalue())})
        assert answer.status_code in (400, 422), answer.text
        refused(answer, answer.status_code, "")


def test_the_operator_is_asked_for(client, picture):
    for fields in ({"steps": "2"}, {"settings": '{"steps": 2}'}):
        refused(asks(client, picture, fields), 422, "operator is missing: what was done to the picture; one of denoise")


def test_the_root_leads_to_the_docs(client):
    answer = client.get("/")
    assert answer.url.path == "/docs"
    assert answer.status_code == 200


def test_the_page_is_there_without_a_network(client, worker, model):
    """It names nothing that a browser would fetch, and says of every request, field, operator, method and refusal what it is."""
    answer = client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.text
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(", page)
    assert set(re.findall(r'(?:href|src|action)="([^"]*)"', page)) == {"openapi.json", "restore"}
    whole = client.get("/openapi.json").json()
    for path, ways in whole["paths"].items():
        for how, each in ways.items():
            assert f"{how.upper()} {path}" in page
            assert html.escape(each["summary"]) in page
    own = set(PictureRequest.model_fields) - {"operator_options", "method_options"}
    for name in (
        *own,
        "mask",
        "kernel",
        "sigma",
        "settings",
        *(f.__name__ for f in (*operators.ALL, *RESTORE_OR_STEER)),
    ):
        assert f"<code>{name}</code>" in page, name
    for status in map(str, served.REFUSALS):
        assert f"<td>{status}</td>" in page
    assert f"{HERE}/restore" in page
    with TestClient(application(worker, model, token="x"), base_url=HERE) as guarded:
        told = guarded.get("/docs").text
        assert "<form" not in told  # which could not bear a token
        assert "Authorization: Bearer TOKEN" in told
    for address in ("/redoc", "/docs/oauth2-redirect"):
        assert client.get(address).status_code == 404


def test_the_form_of_the_page_restores(client, picture):
    fields = {"operator": "deblur", "settings": '{"steps": 2, "std": 0.05}'}
    headers = {"origin": HERE, "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}
    answer = asks(client, picture, fields, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer.text


def bomb(side: int) -> bytes:
    return png(side, side, colour=0, rows=[bytes(1000)])


def test_wrong_pictures(client, picture, mask):
    refused(asks(client, b""), 400, "is empty")
    refused(asks(client, b"hello"), 400, "is not a picture")
    refused(asks(client, picture[:-40]), 400, "truncated or damaged")
    refused(asks(client, bomb(60_000)), 413, "larger than the limit of 0.1 megapixels")
    refused(asks(client, encoded(np.zeros((400, 300), np.uint8))), 413, "larger than the limit")
    refused(asks(client, picture, {"operator": "superres", "factor": "90"}), 413, "more than 0.1 megapixels")
    refused(
        asks(client, picture, {"operator": "denoise", "method": "fk", "particles": "1000"}), 413, "for 1000 particles"
    )
    answer = client.post("/restore", data=FAST, files={"photo": ("p.png", picture)})
    refused(answer, 422, "there is no file 'photo'; expected picture")
    refused(client.post("/restore", data=FAST), 422, "expected the picture as the form file 'picture'")
    for kind, body in (("multipart/form-data", b"x"), ("multipart/form-data; boundary=b", b"nonsense")):
        refused(client.post("/restore", content=body, headers={"Content-Type": kind}), 400, "")
    inpaint = {**FAST, "operator": "inpaint"}
    refused(asks(client, picture, inpaint, {"mask": ("m.png", b"hello")}), 400, "mask is not a picture")
    refused(asks(client, picture, inpaint, {"mask": ("m.png", bomb(60_000))}), 413, "larger than the limit")
    refused(asks(client, picture, {**FAST, "operator": "denoise"}, {"mask": ("m.png", mask)}), 422, "denoise")
    small = asks(client, picture, inpaint, {"mask": ("m.png", encoded(np.eye(8, dtype=np.uint8) * 255))})
    refused(small, 422, "got 8 x 8 in 'mask.tiff'")  # and not where it lay
    np.save(data := io.BytesIO(), np.array([{}], dtype=object), allow_pickle=True)
    refused(
        asks(client, picture, {**FAST, "operator": "motion"}, {"kernel": ("k.npy", data.getvalue())}),
        400,
        "Object arrays",
    )
    assert asks(client, picture).status_code == 200  # it is still there


def test_large_uploads_are_refused_before_and_while_they_are_read(client, picture):
    refused(asks(client, picture + b"\0" * 1_100_000), 413, "larger than 1 MB")  # told by Content-Length
    sent = []

    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="picture"; filename="p.png"\r\n\r\n'
        for _ in range(200):
            sent.append(1)
            yield b"\0" * 100_000

    answer = client.post("/restore", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    refused(answer, 413, "larger than 1 MB")
    refused(client.post("/restore", content=b"", headers={"Content-Length": "many"}), 413, "larger than 1 MB")


def test_no_page_of_another_site_gets_in(client, picture):
    refused(asks(client, picture, headers={"Origin": "https://evil.example"}), 403, "may not send requests here")
    refused(asks(client, picture, headers={"Origin": "null"}), 403, "may not send requests here")
    assert asks(client, picture, headers={"Origin": HERE}).status_code == 200
    for place in ("/health", "/methods"):
        refused(client.get(place, headers={"Host": "evil.example"}), 403, "for this machine only")
    assert client.get("/health", headers={"Host": "[::1]:8000"}).status_code == 200


def test_a_token_is_asked_for(worker, model, picture, monkeypatch):
    compared = []
    honest = served.secrets.compare_digest
    monkeypatch.setattr(served.secrets, "compare_digest", lambda *given: compared.append(given) or honest(*given))
    with TestClient(application(worker, model, token="geheim€", local=False), base_url="http://box.example") as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic geheim"}):
            answer = asks(client, picture, headers=headers)
            refused(answer, 401, "Authorization: Bearer TOKEN")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/methods").status_code == client.get("/operators").status_code == 401
        assert client.get("/health").status_code == 200
        right = {"Authorization": "Bearer geheim€".encode()}
        assert asks(client, picture, headers=right).status_code in (200, 401)  # of letters beyond ASCII, clients differ
    assert compared
    with TestClient(application(worker, model, token="secret", local=False), base_url="http://box.example") as client:
        assert asks(client, picture, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_beyond_this_machine_only_with_a_token(prior, capsys, monkeypatch):
    monkeypatch.delenv("FLOWHELM_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "box.example"):
        with pytest.raises(BadInput, match="FLOWHELM_TOKEN"):
            serving.serve(ServeRequest(host=host, prior=prior))
    assert main(["serve", "--host", "0.0.0.0", "--prior", prior]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    asked, real = {}, serving.Worker
    monkeypatch.setattr(serving, "Worker", lambda *args, **how: SimpleNamespace(open=lambda: None, close=lambda: None))
    monkeypatch.setattr(serving, "run", lambda app, host, port: asked.update(host=host))
    monkeypatch.setenv("FLOWHELM_TOKEN", "secret")
    assert main(["serve", "--host", "0.0.0.0", "--prior", prior]) == 0
    assert asked["host"] == "0.0.0.0"
    monkeypatch.delenv("FLOWHELM_TOKEN")
    assert main(["serve", "--prior", prior]) == 0
    assert asked["host"] == "127.0.0.1"
    monkeypatch.setattr(serving, "Worker", real)
    assert main(["serve", "--prior", "photoss"]) == 2


def test_without_the_extra_it_says_what_to_install(monkeypatch, refusal):
    from flowhelm.interfaces import http
    from flowhelm.interfaces.http import serve

    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, serve.__name__)
    monkeypatch.delattr(http, "serve")
    assert "fastapi is missing): pip install 'flowhelm[ui]'" in refusal("serve")


# --- many at once ---


def test_many_at_once_get_what_each_would_alone(client, restorer, picture):
    seeds, drawn = range(6), {**FAST, "method": "mpc_flow"}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda seed: asks(client, picture, {**drawn, "seed": str(seed)}), seeds))
    for seed, answer in zip(seeds, answers, strict=True):
        expected = restorer(Image.open(io.BytesIO(picture)), "denoise", method="mpc_flow", steps=2, seed=seed)
        assert json.loads(answer.headers["x-flowhelm-run"])["sha256"] == expected.sha256
    assert len({json.loads(answer.headers["x-flowhelm-run"])["sha256"] for answer in answers}) == 6


def test_more_than_may_wait_are_refused(other, model, picture, tmp_path):
    app = application(other(endless, "wait", tmp_path), model, limits=Limits(waiting=1))
    with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(2) as pool:
        running = pool.submit(asks, client, picture)
        begun(tmp_path)
        waits = pool.submit(asks, client, picture)
        while (health := client.get("/health").json())["waiting"] < 1:
            time.sleep(0.01)
        assert health["running"] == 1
        answer = asks(client, picture)
        refused(answer, 429, "1 requests wait already")
        assert int(answer.headers["retry-after"]) > 0
        (tmp_path / "free").touch()
        assert running.result().status_code == waits.result().status_code == 200
        assert client.get("/health").json()["running"] == 0
        assert asks(client, picture).status_code == 200


# --- what ends ---


@pytest.mark.parametrize("how", ["python", "deaf", "steps"])
def test_a_run_that_takes_too_long_ends_in_the_middle_of_a_step(other, model, picture, tmp_path, how):
    worker = other(endless, how, tmp_path)
    worker.open()
    with TestClient(application(worker, model, limits=Limits(seconds=0.3)), base_url=HERE) as client:
        began, first = time.monotonic(), worker.pid
        refused(asks(client, picture), 503, "stopped after 0.3 seconds")
        assert time.monotonic() - began < 4
        assert (worker.pid == first) == (how != "deaf")  # who does not listen is killed, and another one is started
        assert client.get("/health").json()["running"] == 0
        (tmp_path / "free").touch()
        if how == "steps":
            assert asks(client, picture).status_code == 200


def test_a_run_that_fills_the_memory_ends(other, model, picture, tmp_path):
    worker = other(endless, "memory", tmp_path, memory=0.5e9)
    with TestClient(application(worker, model), base_url=HERE) as client:
        refused(asks(client, picture), 503, "not enough memory")
        assert client.get("/health").json()["running"] == 0


def test_what_cannot_be_afforded_is_refused_before_it_starts(client, picture, worker):
    before = worker.pid
    for fields in (
        {"operator": "denoise", "method": "fig", "inner": "100000000"},
        {"operator": "deblur", "method": "mpc_flow", "inner": "adam:iterations=100000000"},
        {"operator": "denoise", "method": "pnp_flow", "draws": "10000"},
        {"operator": "denoise", "method": "fk", "particles": "100001"},
        {"operator": "jpeg", "operator-quality": "20", "method": "daps", "langevin": "20000", "steps": "100"},
        {"settings": json.dumps({"operator": "denoise", "method": "d_flow", "method_options": {"iterations": 99999}})},
    ):
        began = time.monotonic()
        refused(asks(client, picture, fields), 422, "more than 100000 evaluations")
        assert time.monotonic() - began < 20  # the first one imports what optimises
    assert worker.pid == before
    assert asks(client, picture, {**FAST, "method": "fig", "inner": "10"}).status_code == 200


def test_what_goes_wrong_inside(other, model, picture):
    told = [
        (422, "lower the strength"), (503, "not enough memory"), (503, "not enough memory"), (422, "too large to compute with"),
        (500, "fault of the program"),
    ]  # fmt: skip
    with TestClient(application(other(failing), model), base_url=HERE) as client:
        for seed, (status, said) in enumerate(told):
            answer = asks(client, picture, {**FAST, "seed": str(seed)})
            refused(answer, status, said)
            assert "secret" not in answer.text
            assert client.get("/health").json()["running"] == 0


def test_a_worker_that_is_killed_costs_nobody_the_answer(client, restorer, picture, worker):
    worker.open()
    os.kill(worker.pid, signal.SIGKILL)
    answer = asks(client, picture)
    expected = restorer(Image.open(io.BytesIO(picture)), "denoise", steps=2)
    assert json.loads(answer.headers["x-flowhelm-run"])["sha256"] == expected.sha256


def body_of(picture: bytes, **fields: str) -> bytes:
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in fields.items()]
    parts.append(b'Content-Disposition: form-data; name="picture"; filename="p.png"\r\n\r\n' + picture)
    return b"--b\r\n" + b"\r\n--b\r\n".join(parts) + b"\r\n--b--\r\n"


def sent(port: int, body: bytes, part: int | None = None) -> socket.socket:
    """A request on a connection of its own, or the beginning of its body."""
    head = f"POST /restore HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body[:part])
    return connection


@contextmanager
def listening(worker, model, **limits):
    """A real server on this machine: its port."""
    with socket.create_server(("127.0.0.1", 0)) as listens:
        app = application(worker, model, limits=Limits(**limits))
        server = serving.Server(serving.uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listens]}, daemon=True)
        thread.start()
        try:
            yield listens.getsockname()[1], server
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("how", ["python", "steps"])
def test_who_leaves_stops_the_run(other, model, picture, tmp_path, how):
    """The client closes its connection in the middle; what ran is no more, and the next one is answered."""
    worker = other(endless, how, tmp_path)
    with listening(worker, model) as (port, _):
        with sent(port, body_of(picture, **FAST)):
            begun(tmp_path)
        (tmp_path / "free").touch()
        (tmp_path / "begun").unlink()
        with sent(port, body_of(picture, **FAST)):
            began = time.monotonic()
            begun(tmp_path)  # its turn has come
            assert time.monotonic() - began < 4


def test_slow_uploads_block_nobody(worker, model, picture):
    with listening(worker, model) as (port, _):
        body = body_of(picture, **FAST)
        slow = [sent(port, body, 100) for _ in range(50)]
        began = time.monotonic()
        for _ in range(2):
            with sent(port, body) as quick:
                assert quick.recv(15) == b"HTTP/1.1 200 OK"
        assert time.monotonic() - began < 15  # a worker may have to start for the first
        for each in slow[:2]:  # and they are answered when they are there
            each.sendall(body[100:])
            assert each.recv(15) == b"HTTP/1.1 200 OK"
        for each in slow:
            each.close()


def test_who_waits_is_answered_when_the_server_is_stopped(other, model, picture, tmp_path):
    with listening(other(endless, "python", tmp_path), model) as (port, server):
        body = body_of(picture, **FAST)
        connections = [sent(port, body) for _ in range(3)]
        begun(tmp_path)
        connections.append(sent(port, body, 100))
        time.sleep(0.2)
        began = time.monotonic()
        server.handle_exit(signal.SIGTERM, None)
        for each in connections:
            answer = each.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"the server is being stopped" in answer
            each.close()
        assert time.monotonic() - began < 5
