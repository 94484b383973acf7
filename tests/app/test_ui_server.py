"""The local page as a server, asked by hand: what it refuses, what it listens on, and that it leaves nothing behind."""

import json
import os
import secrets
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest
from encoded import encoded
from PIL import Image

httpx = pytest.importorskip("httpx")
psutil = pytest.importorskip("psutil")
pytest.importorskip("gradio")

from flowhelm.app.errors import BadInput  # noqa: E402
from flowhelm.interfaces import ui  # noqa: E402
from flowhelm.interfaces.cli import main  # noqa: E402
from flowhelm.interfaces.ui.request import PageRequest  # noqa: E402

API = "/gradio_api"


def free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def listening() -> set[tuple[str, int]]:
    return {tuple(c.laddr) for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}


@contextmanager
def served(folder: Path, **more):
    (folder / "runs" / "mine").mkdir(parents=True, exist_ok=True)
    (folder / "runs" / "mine" / "a.txt").write_text("in the run folder")
    (folder / "secret.txt").write_text("TOP SECRET")
    before = listening()
    wanted = ui.checked(PageRequest(port=free(), runs=folder / "runs", threads=1, max_upload=1, **more))
    with ui.opened(wanted) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield client, folder, listening() - before


@pytest.fixture(scope="module")
def page(tmp_path_factory, prior):
    with served(tmp_path_factory.mktemp("page"), priors=[prior], max_megapixels=0.01) as found:
        yield found


def call(client, number: int, data: list) -> dict:
    """What an event of the page answers to data that nobody has typed there."""
    who = secrets.token_hex(5)
    body = {"data": data, "fn_index": number, "session_hash": who}
    assert client.post(f"{API}/queue/join", json=body).status_code == 200
    with client.stream("GET", f"{API}/queue/data", params={"session_hash": who}) as lines:
        for line in lines.iter_lines():
            told = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if told.get("msg") == "process_completed":
                return told
    raise AssertionError("no answer")


def taker(client) -> int:
    """The event that takes a photograph."""
    config = client.get("/config").json()
    photo = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "photo")
    return next(each["id"] for each in config["dependencies"] if [photo, "upload"] in each["targets"])


def handed(path: str, name: str = "photo.png") -> dict:
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def test_it_listens_on_this_machine_only(page):
    client, _, sockets = page
    assert sockets == {("127.0.0.1", client.base_url.port)}
    address = next((a.address for many in psutil.net_if_addrs().values() for a in many
                    if a.family == socket.AF_INET and not a.address.startswith("127.")), None)  # fmt: skip
    if address is not None:
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection((address, client.base_url.port), timeout=2)


def test_the_page_is_whole_and_fetches_nothing_from_elsewhere(page):
    client, _, _ = page
    answer = client.get("/")
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "http:" not in answer.headers["content-security-policy"]
    assert "https:" not in answer.headers["content-security-policy"]
    assert '<script src="http' not in answer.text
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    for wanted in ("fonts.googleapis.com", "fonts.gstatic.com", "cdnjs"):
        assert wanted not in answer.text
        assert wanted not in client.get("/theme.css").text


def test_no_event_is_offered_to_programs(page):
    client, _, _ = page
    assert json.loads(client.get(f"{API}/info").text)["named_endpoints"] == {}


@pytest.mark.parametrize(
    "path", [f"{API}/upload", f"{API}/queue/join", f"{API}/run/predict", f"{API}/cancel", "/login"]
)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"])
def test_a_post_of_another_page_is_refused(page, path, origin):
    client, _, _ = page
    answer = client.post(path, headers={"Origin": origin}, json={})
    assert answer.status_code == 403
    assert answer.text.endswith("use the address that was printed when the server was started")
    assert "access-control-allow-origin" not in answer.headers or answer.headers["access-control-allow-origin"] != "*"


def test_a_read_of_another_page_is_refused(page):
    client, _, _ = page
    assert client.get("/config", headers={"Origin": "http://evil.example"}).status_code == 403
    assert (
        client.get("/config", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    )
    assert client.get("/config", headers={"Origin": str(client.base_url).rstrip("/")}).status_code == 200


def test_a_name_that_points_here_is_refused(page):
    client, _, _ = page
    for host in ("evil.example", f"evil.example:{client.base_url.port}", "127.0.0.1.evil.example"):
        answer = client.get("/config", headers={"Host": host})
        assert answer.status_code == 403
        assert answer.text.count("\n") == 0
    assert client.get("/config", headers={"Host": f"localhost:{client.base_url.port}"}).status_code == 200


def test_files_outside_the_run_folder_cannot_be_had(page):
    client, folder, _ = page
    runs = folder / "runs"
    (runs / "mine" / "link.txt").symlink_to(folder / "secret.txt")
    assert client.get(f"{API}/file={runs}/mine/a.txt").text == "in the run folder"
    for path in (
        folder / "secret.txt", "/etc/passwd", f"{runs}/../secret.txt",
        f"{runs}/mine/../../secret.txt", f"{runs}/mine/%2e%2e/%2e%2e/secret.txt",
        f"{runs}/mine/..%2f..%2fsecret.txt", f"{runs}/mine/link.txt", "secret.txt", "../secret.txt", __file__, "file:///etc/passwd",
    ):  # fmt: skip
        for form in ("file=", "file/"):
            with httpx.Client(base_url=client.base_url) as raw:
                answer = raw.get(httpx.URL(str(client.base_url) + f"gradio_api/{form}{path}"))
            assert answer.status_code in (403, 404, 307), (path, answer.status_code)
            assert "SECRET" not in answer.text
            assert "root:" not in answer.text
    for path in ("/static/../../secret.txt", "/assets/..%2f..%2f..%2froutes.py", "/svelte/..%2f..%2fx"):
        assert client.get(path).status_code in (403, 404)


def test_nothing_is_fetched_for_the_caller(page):
    client, _, _ = page
    for path in ("file=http://127.0.0.1:1/x", "file=https://example.org/x", "proxy=https://example.org/x"):
        answer = client.get(f"{API}/{path}")
        assert answer.status_code == 403
        assert answer.text == "this page fetches nothing from elsewhere"


def test_large_uploads_are_refused(page):
    client, _, _ = page
    fine = client.post(f"{API}/upload", files={"files": ("a.png", encoded(Image.new("RGB", (9, 9))))})
    assert fine.status_code == 200
    answer = client.post(f"{API}/upload", files={"files": ("a.png", bytes(1_100_000))})
    assert answer.status_code == 413
    assert "maximum" in answer.text


def test_names_with_folders_stay_among_the_uploads(page):
    client, folder, _ = page
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    for name in ("../../../../evil.png", "..\\..\\evil.png", "/tmp/evil.png", "%2e%2e%2fevil.png"):
        (path,) = client.post(f"{API}/upload", files={"files": (name, encoded(Image.new("RGB", (9, 9))))}).json()
        assert Path(path).resolve().is_relative_to(uploads.resolve())
        assert ".." not in Path(path).parts
    assert not list(folder.rglob("evil.png"))


def test_a_photograph_is_taken_from_the_uploads_only(page):
    client, folder, _ = page
    number = taker(client)
    (path,) = client.post(f"{API}/upload", files={"files": ("a.png", encoded(Image.new("RGB", (9, 9))))}).json()
    assert call(client, number, [handed(path)])["success"]
    (folder / "other.png").write_bytes(encoded(Image.new("RGB", (9, 9))))
    for other in (str(folder / "other.png"), "/etc/passwd", f"{path}/../../../other.png"):
        answer = call(client, number, [handed(other)])
        assert not answer["success"]
        assert "root:" not in str(answer)


def test_too_many_pixels_are_one_sentence(page):
    client, _, _ = page
    (path,) = client.post(f"{API}/upload", files={"files": ("big.png", encoded(Image.new("RGB", (101, 100))))}).json()
    answer = call(client, taker(client), [handed(path, "big.png")])
    assert (
        answer["output"]["error"] == "'big.png' has 0.0101 megapixels, and the limit here is 0.01; scale it down first"
    )
    assert "Traceback" not in str(answer)


def test_a_password_is_asked_for_everywhere(tmp_path, prior):
    with served(tmp_path, priors=[prior], password="open sesame") as (client, _, _):
        posts = [f"{API}/upload", f"{API}/queue/join", f"{API}/run/predict"]
        gets = ["/config", f"{API}/info", f"{API}/file={tmp_path}/runs/mine/a.txt", f"{API}/queue/data?session_hash=a"]
        for path in posts:
            assert client.post(path, json={"data": [], "fn_index": 0, "session_hash": "a"}).status_code == 401, path
        for path in gets:
            assert client.get(path).status_code == 401, path
        assert "elem_id" not in client.get("/").text  # the form, not the page
        assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
        assert client.post("/login", data={"username": "me", "password": ""}).status_code in (400, 422)
        assert client.get("/config").status_code == 401
        assert client.post("/login", data={"username": "me", "password": "open sesame"}).status_code == 200
        assert client.get("/config").status_code == 200
        assert client.get(gets[2]).text == "in the run folder"


def test_a_port_that_is_taken_is_one_sentence(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert (
            main(["ui", "--port", str(port), "--runs", str(tmp_path / "runs"), "--no-browser", "--threads", "1"]) == 2
        )
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"flowhelm: --port {port} of 127.0.0.1 cannot be listened on (in use?); choose another --port"


def test_uploads_are_gone_when_it_is_closed(tmp_path, prior):
    with served(tmp_path, priors=[prior]) as (client, _, sockets):
        uploads = Path(os.environ["GRADIO_TEMP_DIR"])
        assert uploads.stat().st_mode & 0o077 == 0  # nobody else on this machine reads them
        (path,) = client.post(f"{API}/upload", files={"files": ("a.png", encoded(Image.new("RGB", (9, 9))))}).json()
        assert Path(path).is_file()
    assert not uploads.exists()
    assert not sockets & listening()


def test_without_gradio_it_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gradio", None)
    with (
        pytest.raises(BadInput, match=r"pip install 'flowhelm\[ui\]'"),
        ui.opened(ui.checked(PageRequest(runs=tmp_path / "runs"))),
    ):
        pass
