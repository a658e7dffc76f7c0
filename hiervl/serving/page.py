"""The page in Gradio: an image, the table of classes, and the resulting pictures."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from hiervl.utils.errors import UserError

from .class_rows import read_rows, rows_of
from .guard import is_file_below
from .segmenter import Drawing, FoundClass, PageSegmenter

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "serve"
WAITING = 8  # waiting requests; further ones are refused because the queue is full
LEAST_SHARE = 0.001  # share of the pixels; smaller ones would be rounded to 0
INVITATION = "Drop an image, and its classes appear."
TABLE = (
    "<h2>Classes</h2><p>A class that the network was trained on keeps its trained score as long as it keeps its name; "
    "any other is found by its phrases. A class without a tick is only not drawn; one that is removed leaves its "
    'pixels to the others.</p><div class="class-rows"></div><div class="actions"><button type="button" class="add">'
    'Add a class</button><button type="button" class="all">Show all or none</button>'
    '<button type="button" class="reset">Reset</button></div>'
)
Outputs = tuple[str, np.ndarray | None, np.ndarray | None, np.ndarray | None, str]


def build_page(segmenter: PageSegmenter, title: str, uploads: Path) -> gr.Blocks:
    """Build the page of a network.

    Args:
        title: the name of the network.
        uploads: the folder of uploaded files; no other file is segmented.
    """
    uploads = uploads.resolve()

    def segment(image: Any, rows: Any) -> Outputs:
        if not image:
            return _sentence(INVITATION), None, None, None, ""
        try:
            drawing = segmenter(_upload_path(image, uploads), read_rows(rows))
        except UserError as error:
            return _sentence(str(error), is_problem=True), None, None, None, ""
        return _summary(drawing), drawing.overlay, drawing.mask, drawing.confidence, _found(drawing.found)

    with gr.Blocks(title=f"{title} · HierVL", analytics_enabled=False) as page:
        gr.HTML(f"<h1>{escape(title)}</h1><p>HierVL segments an image on this machine.</p>", elem_id="title")
        with gr.Row(elem_id="halves"):
            with gr.Column(scale=2, min_width=320, elem_id="asked"):
                image = gr.Image(label="Image", sources=["upload", "clipboard"], elem_id="image", buttons=[])
                table = gr.HTML(
                    rows_of(segmenter.predictor.classes),
                    html_template=TABLE,
                    js_on_load=(ASSETS / "classes.js").read_text(encoding="utf-8"),
                    apply_default_css=False,
                    elem_id="classes",
                )
            with gr.Column(scale=3, min_width=320, elem_id="answered"):
                status = gr.HTML(_sentence(INVITATION), elem_id="status")
                with gr.Tabs():
                    pictures = [_picture(label) for label in ("Overlay", "Mask", "Confidence")]
                found = gr.HTML(elem_id="found")
        gr.on(
            [image.change, table.edit],
            segment,
            [image, table],
            [status, *pictures, found],
            # The uploaded file itself: Gradio would decode an image of any size and format.
            preprocess=False,
            trigger_mode="always_last",  # edits made while the network works are answered together
            concurrency_limit=1,
            show_progress_on=pictures,
        )
    return page.queue(max_size=WAITING)


def _upload_path(image: Any, uploads: Path) -> Path:
    """The file that a message names. Raises: UserError: it is not an uploaded file."""
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(path, str) or not is_file_below(path, uploads):
        raise UserError("the image is not on the server: drop it again.")
    return Path(path)


def _picture(label: str) -> gr.Image:
    with gr.Tab(label):
        return gr.Image(
            show_label=False,
            format="png",
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_id=label.lower(),
        )


def _sentence(text: str, is_problem: bool = False) -> str:
    return f'<div role="status" class="{"problem" if is_problem else "plain"}">{escape(text)}</div>'


def _summary(drawing: Drawing) -> str:
    height, width = drawing.size
    count = len(drawing.found)
    classes = "1 class" if count == 1 else f"{count} classes"
    return _sentence(f"{width} × {height} pixels, {classes} found; the network took {drawing.seconds:.1f} s.")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= LEAST_SHARE else f"&lt; {100 * LEAST_SHARE:.1f} %"


def _found(found: list[FoundClass]) -> str:
    """The legend: the classes that were found, the most frequent first."""
    entries = "".join(
        f"<li{'' if found_class.is_shown else ' class=undrawn'}>"
        f'<i style="background:rgb{found_class.definition.color}"></i>'
        f'<span class="name">{escape(found_class.definition.name)}</span><b>{_percent(found_class.share)}</b>'
        f'<span class="pale">confidence {100 * found_class.confidence:.0f} %</span></li>'
        for found_class in found
    )
    return f"<h2>Found</h2><ul>{entries}</ul>"
