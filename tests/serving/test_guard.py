"""The guard, in front of an application that would answer every request."""

import asyncio
import json
import os

import pytest

from hiervl.serving.guard import Guard, make_room

LIMIT = 1000


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "uploads_too").mkdir()
    (tmp_path / "uploads_too" / "b.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret")
    return folder


class Everything:
    """Answers 200 to whatever it is asked, after it has read the body."""

    def __init__(self):
        self.asked = []

    async def __call__(self, scope, receive, send):
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        self.asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})


def ask(uploads, path, method="GET", headers=(), chunks=(b"",), hosts=("localhost", "127.0.0.1")):
    """→ status and headers of the answer, and whether the application was reached."""
    app, sent = Everything(), []
    guard = Guard(app, uploads=uploads, max_upload=LIMIT, max_kept=10 * LIMIT, hosts=hosts)
    given = {b"host": b"localhost:7860", **dict(headers)}
    scope = {"type": "http", "method": method, "path": path, "headers": list(given.items())}
    last = len(chunks) - 1
    waiting = [{"type": "http.request", "body": chunk, "more_body": i < last} for i, chunk in enumerate(chunks)]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), bool(app.asked)


JSON = (b'{"data": []}',)


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index-Ab_1.js", "/static/fonts/a/b.woff2", "/theme.css"])
def test_requests_that_the_page_needs_pass_with_a_policy(uploads, path):
    status, headers, reached = ask(uploads, path)
    assert status == 200 and reached
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://example.org/",
        "/gradio_api/vibe-code/",
        "/gradio_api/run/predict",
        "/gradio_api/component_server",
        "/monitoring",
        "/monitoring/summary",
        "/login",
        "/docs",
        "/openapi.json",
        "/file=/etc/passwd",
        "/assets/../../../etc/passwd",
        "/static/./x",
        "/static//etc/passwd",
        "/static/..",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_routes_do_not_exist(uploads, path, method):
    status, _, reached = ask(uploads, path, method)
    assert (status, reached) == (404, False)


def test_only_files_of_the_folder_are_readable(uploads, tmp_path):
    for path, status in {
        f"{uploads}/a.png": 200,
        f"{uploads}/../uploads/a.png": 200,
        f"{uploads}/link.png": 403,
        f"{uploads}/../secret": 403,
        f"{uploads}": 403,
        f"{uploads}_too/b.png": 403,
        f"{uploads}/a.png\0.txt": 403,
        "/etc/passwd": 403,
        "../../../../etc/passwd": 403,
        "uploads/a.png": 403,
        "http://127.0.0.1/a.png": 403,
    }.items():
        assert ask(uploads, f"/gradio_api/file={path}")[0] == status, path


def test_foreign_names_and_foreign_pages_are_refused(uploads):
    for host, status in {
        b"127.0.0.1:1": 200, b"localhost": 200, b"evil.example:7860": 403, b"": 403, b"[": 403,
    }.items():  # fmt: skip
        assert ask(uploads, "/", headers=[(b"host", host)])[0] == status, host
    assert ask(uploads, "/", headers=[(b"host", b"anything")], hosts=None)[0] == 200
    own, foreign = [(b"origin", b"http://localhost:7860")], [(b"origin", b"http://evil.example")]
    assert ask(uploads, "/gradio_api/queue/join", "POST", own, JSON)[0] == 200
    assert ask(uploads, "/gradio_api/queue/join", "POST", foreign, JSON)[0] == 403
    assert ask(uploads, "/gradio_api/upload", "POST", [(b"origin", b"null")])[0] == 403


def test_bodies_are_bounded_whatever_they_announce(uploads):
    upload, most = "/gradio_api/upload", LIMIT + 64 * 1024
    assert ask(uploads, upload, "POST", chunks=(b"x" * most,))[0] == 200
    assert ask(uploads, upload, "POST", [(b"content-length", str(most + 1).encode())])[0::2] == (413, False)
    assert ask(uploads, upload, "POST", [(b"content-length", b"-1")])[0] == 413
    assert ask(uploads, upload, "POST", chunks=(b"x" * most, b"y"))[0::2] == (413, False)
    assert ask(uploads, "/gradio_api/queue/join", "POST", chunks=(b"x" * 2**20,) * 3)[0] == 413


def test_a_message_names_only_files_of_the_folder(uploads, tmp_path):
    def send(data):
        return ask(uploads, "/gradio_api/queue/join", "POST", chunks=(json.dumps({"data": data}).encode(),))[0]

    assert send([{"path": f"{uploads}/a.png", "meta": {}}, [{"name": "/etc/passwd"}]]) == 200
    for path in (f"{tmp_path}/secret", f"{uploads}/link.png", "http://127.0.0.1/a.png", None, ["/etc/passwd"]):
        assert send([{"path": path}, []]) == 403, path
        assert send([None, [{"name": {"deep": [{"path": path}]}}]]) == 403, path
    for broken in (b"", b"{", b"[" * 100_000, b"\xff"):
        assert ask(uploads, "/gradio_api/queue/join", "POST", chunks=(broken,))[0] == 403


def test_the_oldest_files_make_room(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "file"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000 - age, 1000 - age))
    make_room(tmp_path, 250)
    assert sorted(path.parent.name for path in tmp_path.rglob("file")) == ["middle", "new"]
    make_room(tmp_path, 250)
    assert len(list(tmp_path.rglob("file"))) == 2
