"""The page of ``python -m hiervl serve`` in a browser, on a small network."""

import socket
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from hiervl.inference.predictor import HierVLPredictor
from hiervl.serving.segmenter import PageSegmenter, UploadLimits

NASTY = "<img src=x onerror=alert(1)> {{value}} ${1+1} `"


@pytest.fixture
def served(save_run, tmp_path):
    """→ the address of a page whose uploads have at most 100 kB and 64 × 64 pixels."""
    pytest.importorskip("gradio", reason="requirements/serve.txt is not installed")
    import uvicorn

    from hiervl.serving.server import build_app

    predictor = HierVLPredictor.from_checkpoint(save_run()[1], device="cpu")
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    app = build_app(PageSegmenter(predictor, UploadLimits(100_000, 64 * 64)), "a <b>run</b>", uploads)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    listener.close()


@pytest.fixture(scope="module")
def asked_elsewhere():
    """The places beyond this machine that this process, with the server in it, connects to or looks up."""
    places = []

    def note(event, arguments):
        if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(arguments[1], tuple):
            place = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0]
            if place not in (None, "localhost", "127.0.0.1", "::1"):
                places.append(place)

    sys.addaudithook(note)
    return places


class ServePage:
    """What a visitor does."""

    def __init__(self, visit):
        self.visit, self.page = visit, visit.page
        self.page.locator(".class-row").first.wait_for()

    def drop(self, path):
        remove = self.page.get_by_label("Remove Image")
        if remove.count():
            remove.first.click()
        self.page.locator("#image input[type=file]").set_input_files(path)

    def row(self, index):
        return self.page.locator(".class-row").nth(index)

    def names(self):
        """Of the classes that were found."""
        return self.page.locator("#found .name").all_inner_texts()

    def until(self, holds, what):
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end, f"{what}; {self.page.locator('#status').inner_text()}; {self.names()}"
            self.page.wait_for_timeout(50)

    def status(self):
        return self.page.locator("#status").inner_text()

    def overlay(self):
        """RGB pixels (N, 3) of the overlay."""
        self.page.locator("#overlay img").wait_for()
        flat = self.page.locator("#overlay img").evaluate(
            """async image => {
                await image.decode();
                const canvas = document.createElement("canvas");
                [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
                const context = canvas.getContext("2d");
                context.drawImage(image, 0, 0);
                return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
            }"""
        )
        return np.array(flat).reshape(-1, 4)[:, :3]


def test_drop_an_image_edit_and_toggle_classes(asked_elsewhere, visit, served, photo):
    visited = visit(served)
    page = ServePage(visited)
    assert visited.page.locator("h1").inner_text() == "a <b>run</b>"
    assert page.page.locator(".class-row").count() == 6
    page.drop(photo)
    page.until(page.names, "an answer")
    assert "60 × 40 pixels" in page.status()

    found = page.names()[0]
    index = [page.row(i).locator(".name").input_value() for i in range(6)].index(found)
    image = np.asarray(Image.open(photo)).reshape(-1, 3)
    assert (page.overlay() != image).any()
    for other in range(6):
        page.row(other).locator(".show").uncheck()
    page.until(lambda: page.page.locator("#found li:not(.undrawn)").count() == 0, "nothing is shown")
    page.until(lambda: (page.overlay() == image).all(), "the bare image")
    page.page.get_by_role("button", name="Show all or none").click()
    page.until(lambda: (page.overlay() != image).any(), "the masks again")

    page.row(index).locator(".name").fill(NASTY)
    page.row(index).locator(".phrases").fill("one phrase; another one")
    page.row(index).locator(".phrases").press("Enter")
    page.until(lambda: found not in page.names(), "the new name")
    for other in range(5, -1, -1):
        if other != index:
            page.row(other).get_by_role("button").click()
    page.until(lambda: page.names() == [NASTY], "only the new class")  # as text, neither markup nor a template
    page.page.get_by_role("button", name="Add a class").click()
    page.row(1).locator(".name").fill(NASTY)
    page.row(1).locator(".name").press("Enter")
    page.until(lambda: "is there twice" in page.status(), "a sentence")
    page.page.get_by_role("button", name="Reset").click()
    page.until(lambda: found in page.names(), "the first classes")

    assert visited.errors == []
    assert visited.requests_elsewhere(served) == []
    assert asked_elsewhere == []


def test_refusals_are_sentences_and_the_page_fits_a_dark_phone(visit, served, photo, phone, tmp_path):
    visited = visit(served, "dark", phone)
    page = ServePage(visited)
    drawing = tmp_path / "drawing.svg"
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    page.drop(drawing)
    page.until(lambda: "cannot be read as an image" in page.status(), "no drawing")
    large = tmp_path / "large.png"
    Image.new("RGB", (65, 64)).save(large)
    page.drop(large)
    page.until(lambda: "more than 4096 pixels" in page.status(), "too many pixels")
    page.drop(photo)
    page.until(page.names, "an answer")
    assert visited.overflow() == 0
    assert page.page.locator("#found").bounding_box()["y"] < page.page.locator("#classes").bounding_box()["y"]
    paper = page.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(paper[:3]) < 50
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(b"x" * 100_001)
    page.drop(heavy)
    page.page.get_by_text("exceed the maximum allowed size").first.wait_for()
