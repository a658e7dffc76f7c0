"""A headless Chromium. Where there is none, these tests are skipped."""

import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",  # which containers do not allow; the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium():
    """A browser with a fresh profile."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page in a window of its own, and what happened on it."""

    def __init__(self, browser, address, scheme, viewport):
        self.context = browser.new_context(color_scheme=scheme, viewport=viewport)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.errors, self.requested = [], []
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(address)

    def requests_elsewhere(self, address):
        """Addresses that were asked for and do not begin with ``address``."""
        return [url for url in self.requested if not url.startswith((address, "data:", "blob:"))]

    def overflow(self):
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture
def visit(chromium):
    """→ function from an address to a :class:`Visit` of it."""
    visits = []

    def make(address, scheme="light", viewport=DESKTOP):
        visits.append(Visit(chromium, address, scheme, viewport))
        return visits[-1]

    yield make
    for made in visits:
        made.context.close()


@pytest.fixture
def phone():
    """The window of a phone."""
    return PHONE
