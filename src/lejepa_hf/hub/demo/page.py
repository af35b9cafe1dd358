"""The page of `lejepa demo`, in Gradio."""

import logging
import os
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.decoding import DECODING_ERRORS
from ...evaluation.patch_maps import MOST_ENLARGED
from .drawing import draw_thumbnail
from .encoder_views import EncoderViews, View
from .settings import DemoSettings

if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger("lejepa_hf")

# Galleries are as high as their pictures, and not wider than their column.
_STYLE = """
#examples .grid-wrap, #neighbours .grid-wrap { height: auto; min-height: 0; max-height: none; overflow: visible; }
#examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); }
#neighbours .grid-container { grid-template-columns: repeat(6, minmax(0, 1fr)); }
"""
# All events share the encoder: one runs at a time.
_ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "encoder", "concurrency_limit": 1, "api_visibility": "private"}


def check_gradio() -> None:
    """Raise an ImportError if gradio is not installed."""
    if find_spec("gradio") is None:
        raise ImportError('A demo needs gradio: `pip install "gradio>=6"`.')


def serve(settings: DemoSettings, host: str | None = None, port: int | None = None) -> None:
    """
    Serve the page until the process is interrupted. If missing, `host` is this machine only, in a Space the address
    that the Space requires, and `port` the first free one from 7860 on. ImportError without gradio; ValueError if the
    port is not free, or the dataset or the encoder cannot be used.
    """
    check_gradio()
    if port is not None:
        _check_port(host or "127.0.0.1", port)
    page = build_page(EncoderViews(settings))
    import gradio

    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        show_error=True,
        css=_STYLE,
        # Fonts of the reader's system, because others would be loaded from Google.
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )
    logger.info(f"The demo is at {url} until Ctrl+C.")
    page.block_thread()


def build_page(views: EncoderViews) -> "gr.Blocks":
    """Lay out the page, not launched, and connect its parts."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported
    import gradio as gr

    takes_pictures = views.channels in (1, 3)
    quiet: dict[str, Any] = {"show_label": False, "interactive": False, "format": "png"}
    upload: gr.Image | gr.File
    with gr.Blocks(title=f"{views.title}: look at an encoder") as page:
        gr.Markdown(f"# {views.title}\n{views.description}")
        chosen = gr.State(None)  # the path of a file or the number of an example
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                if takes_pictures:
                    upload = gr.Image(
                        label="Your image", image_mode=None, sources=["upload", "clipboard"],
                        height=260, elem_id="upload",
                    )  # fmt: skip
                else:
                    label = f"Your image: .npy or TIFF with {views.channels} channels"
                    upload = gr.File(label=label, elem_id="upload")
                if views.examples:
                    gr.Markdown("or one of these")
                examples = gr.Gallery(
                    [(draw_thumbnail(image), label) for image, label in views.examples],
                    columns=3, height="auto", allow_preview=False, buttons=[], visible=bool(views.examples),
                    elem_id="examples", **quiet,
                )  # fmt: skip
                enlarge = gr.Slider(
                    1, MOST_ENLARGED, value=views.enlarge, step=1, label="Resolution of the maps", elem_id="enlarge",
                    info="times the size the encoder is used with",
                )  # fmt: skip
            with gr.Column(scale=3):
                with gr.Row():
                    seen, patches, heat = (_titled_picture(*titles, quiet) for titles in _titles(views))
                note = gr.Markdown(elem_id="note")
                among = "None, because this page was started without `--dataset`."
                if views.bank is not None:
                    among = f"among {len(views.bank):,} of the dataset, with the cosine similarity of the embeddings"
                gr.Markdown(f"### Nearest images\n{among}")
                neighbours = gr.Gallery(
                    columns=6, height="auto", object_fit="contain", buttons=[], visible=views.bank is not None,
                    elem_id="neighbours", **quiet,
                )  # fmt: skip
        shown = [seen, patches, heat, neighbours, note]  # in the order of a `View`

        def look(chosen: str | int, enlarge: float) -> tuple:
            return _look(views, chosen, enlarge)

        def look_at_upload(file: dict[str, str], enlarge: float) -> tuple:
            return file["path"], *look(file["path"], enlarge)

        def look_at_example(enlarge: float, picked: gr.SelectData) -> tuple:
            picture = draw_thumbnail(views.examples[picked.index][0]) if takes_pictures else None
            return picked.index, picture, *look(picked.index, enlarge)

        def look_again(chosen: str | int | None, enlarge: float) -> tuple:
            return look(chosen, enlarge) if chosen is not None else (gr.skip(),) * len(shown)

        # The file is passed as it is: Gradio would reduce 16 bits to 8, and would hide why a file is broken.
        upload.upload(look_at_upload, [upload, enlarge], [chosen, *shown], preprocess=False, **_ONE_AT_A_TIME)
        examples.select(look_at_example, [enlarge], [chosen, upload, *shown], **_ONE_AT_A_TIME)
        enlarge.change(look_again, [chosen, enlarge], shown, trigger_mode="always_last", **_ONE_AT_A_TIME)
        if views.examples:
            page.load(lambda enlarge: (0, *look(0, enlarge)), [enlarge], [chosen, *shown], **_ONE_AT_A_TIME)
    return page


def _titles(views: EncoderViews) -> list[tuple[str, str, str]]:
    """Id, title and explanation of each of the three pictures."""
    of = "images of the dataset" if views.bank is not None else "this image"
    heat = ("Attention", "attention of the class token in the last block, mean over heads")
    if not views.has_attention:
        heat = ("Feature norm", "norm of each patch feature; this encoder has no attention of a class token to show")
    return [
        ("seen", "The image", "as the encoder receives it"),
        ("patches", "Patch features", f"three principal components, computed from {of}"),
        ("heat", *heat),
    ]


def _titled_picture(name: str, title: str, what: str, settings: dict[str, Any]) -> "gr.Image":
    import gradio as gr

    with gr.Column(min_width=200):
        gr.Markdown(f"### {title}")
        picture = gr.Image(elem_id=name, buttons=["fullscreen", "download"], **settings)
        gr.Markdown(what)
    return picture


def _look(views: EncoderViews, chosen: str | int, enlarge: float) -> View:
    """The pictures of an example or a file. The page shows why a file cannot be read."""
    import gradio as gr

    try:
        image = views.examples[chosen][0] if isinstance(chosen, int) else views.extractor.decode(Path(chosen))
    except DECODING_ERRORS as error:
        reason = str(error).replace(f"{Path(str(chosen)).parent}{os.sep}", "")  # the folder is Gradio's
        raise gr.Error(f"This file cannot be read as an image: {reason}", print_exception=False) from error
    return views.look(image, int(enlarge))


def _check_port(host: str, port: int) -> None:
    """Refuse a port that is not free before the encoder is loaded; Gradio checks it afterwards."""
    if not 1 <= port <= 65535:
        raise ValueError(f"`port` must be 1 to 65535, got {port}; leave it out for the first free one.")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise ValueError(f"`port` {port} of {host} cannot be used ({error}): choose another with --port.") from error
