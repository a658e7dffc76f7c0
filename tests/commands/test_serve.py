"""``python -m hiervl serve`` as a user runs it: it answers uploads and refuses requests for other files."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiervl import __main__ as entry

REPOSITORY = Path(__file__).resolve().parents[2]
UPLOAD_LIMIT = 2**20
BOUNDARY = "hiervl"


class Server:
    """The command in a process of its own."""

    def __init__(self, run, temporary):
        temporary.mkdir()
        self.temporary = temporary
        command = [sys.executable, "-m", "hiervl", "serve", "--weights", str(run), "--device", "cpu"]
        command += ["--port", "0", "--max-upload", "1", "--max-pixels", "1"]
        environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
        self.greeting = self.process.stdout.readline()
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+) ", self.greeting).group(1))

    def ask(self, method, path, body=b"", **headers):
        """→ status and body of the answer; the path is sent as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def upload(self, content, name="photo.png"):
        head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.ask("POST", "/gradio_api/upload", body, **kind)

    def segment(self, image, session):
        """→ what the page's one function returns, by way of Gradio's queue."""
        headers = {"content-type": "application/json"}
        body = json.dumps({"data": [image, ROWS], "fn_index": 0, "session_hash": session}).encode()
        status, answer = self.ask("POST", "/gradio_api/queue/join", body, **headers)
        if status != 200:
            return status, answer.decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
        for line in connection.getresponse():
            message = json.loads(line[len(b"data: ") :]) if line.startswith(b"data: ") else {}
            if message.get("msg") == "process_completed":
                return message["output"]["data"]


@pytest.fixture
def server(save_run, tmp_path):
    pytest.importorskip("gradio", reason="requirements/serve.txt is not installed")
    started = Server(save_run()[1], tmp_path / "temporary")
    yield started
    started.process.kill()
    started.process.wait()


def png(path, size=(60, 40)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


ROWS = [
    {"show": True, "color": "#102030", "name": "cat", "phrases": "cat", "background": False},
    {"show": True, "color": "#405060", "name": "zebra", "phrases": "a striped animal", "background": False},
]


def test_a_visitor_gets_an_answer_and_no_file_of_the_server(server, tmp_path):
    assert server.ask("GET", "/")[0] == 200
    _the_answer_is_that_of_the_upload(server, tmp_path)
    _no_file_is_readable(server, tmp_path)
    _uploads_are_bounded(server)
    folders = list(server.temporary.glob("hiervl_serve_*"))
    assert len(folders) == 1
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 143
    assert not folders[0].exists()


def _the_answer_is_that_of_the_upload(server, tmp_path):
    status, answer = server.upload(png(tmp_path / "photo.png"))
    assert status == 200
    image = {"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}
    sentence, overlay, _, _, found = server.segment(image, "first")
    assert "60 × 40 pixels" in sentence and ("cat" in found or "zebra" in found)
    assert server.ask("GET", f"/gradio_api/file={overlay['path']}")[1].startswith(b"\x89PNG")
    status, answer = server.upload(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg")
    image["path"] = json.loads(answer)[0]
    sentence, overlay, *_ = server.segment(image, "second")
    assert overlay is None
    assert "cannot be read as an image" in sentence and str(server.temporary) not in sentence


def _no_file_is_readable(server, tmp_path):
    png(tmp_path / "private.png")  # an image, so that it would even be segmented
    places = [tmp_path / "private.png", tmp_path / "run" / "model_final.pth", Path("/etc/passwd")]
    uploads = next(server.temporary.glob("hiervl_serve_*"))
    for place in places:
        climb = os.path.relpath(place, uploads)
        for path in (
            f"/gradio_api/file={place}",
            f"/gradio_api/file=%2F{str(place)[1:]}",
            f"/gradio_api/file={uploads}/{climb}",
            f"/gradio_api/file={climb}",
            f"/gradio_api/file=file://{place}",
            f"/gradio_api/file/{place}",
            f"/file={place}",
            f"/static/../../../../../../../../../../..{place}",
            f"/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{place}",
            f"/assets/../../../../../../../../../../..{place}",
            f"/gradio_api/proxy=file://{place}",
        ):
            status, answer = server.ask("GET", path)
            assert status in (403, 404), path
            assert place.read_bytes()[:20] not in answer
        for number, mark in enumerate(({}, {"meta": {"_type": "gradio.FileData"}})):
            assert server.segment({"path": str(place), **mark}, f"{place.name}{number}")[0] == 403
    listener = socket.create_server(("127.0.0.1", 0))  # an address that the server must not fetch
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/photo.png"
    assert server.ask("GET", f"/gradio_api/file={address}")[0] == 403
    marked = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
    assert server.segment(marked, "address")[0] == 403
    listener.settimeout(0.2)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.close()


def _uploads_are_bounded(server):
    assert server.upload(b"x" * (UPLOAD_LIMIT - 1))[0] == 200
    assert server.upload(b"x" * (UPLOAD_LIMIT + 1))[0] == 413
    try:
        status = server.upload(b"x" * 50 * UPLOAD_LIMIT)[0]
    except ConnectionError:  # the server has refused it and hung up before all was sent
        status = 413
    assert status == 413
    assert server.ask("GET", "/", host="evil.example")[0] == 403
    kept = sum(path.stat().st_size for path in server.temporary.rglob("*") if path.is_file())
    assert kept < 2 * UPLOAD_LIMIT


def test_a_missing_gradio_is_a_sentence_with_the_command_that_installs_it(monkeypatch, tmp_path, capsys):
    for name in [name for name in sys.modules if name.startswith("hiervl.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("gradio", "fastapi", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    assert entry.main(["serve", "--weights", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "serve needs Gradio" in error and "pip install 'gradio>=6' 'pillow<13'` installs" in error


def test_wrong_limits_are_a_sentence(tmp_path, capsys):
    assert entry.main(["serve", "--weights", str(tmp_path), "--max-upload", "0"]) == 2
    assert "--max-upload is a positive number, not 0." in capsys.readouterr().err


def test_a_port_that_is_taken_is_a_sentence(capsys):
    pytest.importorskip("gradio", reason="requirements/serve.txt is not installed")
    from hiervl.serving.server import serve
    from hiervl.utils.errors import UserError

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another"):
        serve(None, "x", "127.0.0.1", taken.getsockname()[1], None)
    with pytest.raises(UserError, match="cannot be served on no-such-host.invalid"):
        serve(None, "x", "no-such-host.invalid", 0, None)
    with pytest.raises(UserError, match="choose another"):
        serve(None, "x", "127.0.0.1", 70_000, None)
