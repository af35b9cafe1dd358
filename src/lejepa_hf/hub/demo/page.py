"""The page of `lejepa demo`, in Gradio."""

import logging
import os
import socket
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from ...evaluation.patch_maps import MOST_ENLARGED
from .encoder_views import EncoderViews, View, draw_thumbnail
from .request_limits import RequestLimits
from .settings import DemoSettings
from .upload_decoding import decode_upload
from .uploads import LARGEST_UPLOAD, Uploads

if TYPE_CHECKING:
    import gradio as gr
    import numpy as np
    from PIL import Image

logger = logging.getLogger("lejepa_hf")

Result = TypeVar("Result")

# Galleries are as high as their pictures, and not wider than their column. Gradio writes captions over the pictures,
# in one line that it cuts: here they stand below them, in as many lines as they need.
_STYLE = """
#examples .grid-wrap, #neighbours .grid-wrap { height: auto; min-height: 0; max-height: none; overflow: visible; }
#examples .grid-container, #neighbours .grid-container { grid-template-rows: none; grid-auto-rows: auto; }
#examples .grid-container { grid-template-columns: repeat(auto-fill, minmax(4.5rem, 1fr)); }
#neighbours .grid-container { grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); }
#examples .thumbnail-lg, #neighbours .thumbnail-lg { display: flex; flex-direction: column; aspect-ratio: auto;
  height: auto; overflow: visible; }
#examples .thumbnail-lg > img, #neighbours .thumbnail-lg > img { height: auto; aspect-ratio: 1; }
#examples .caption-label, #neighbours .caption-label { position: static; max-width: 100%; width: 100%; border: 0;
  padding: 0.15rem 0.25rem; white-space: normal; overflow: visible; overflow-wrap: anywhere; text-overflow: clip;
  opacity: 1; }
"""
_CLICK = "click the image: where are patches like the one there, by the cosine of their features"
_MOST_WAITING = 20  # events; a visitor who sends more is told that the queue is full
_MOST_SESSIONS = 1000  # visitors whose last image is remembered
# All events share the encoder: one runs at a time.
_ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "encoder", "concurrency_limit": 1, "api_visibility": "private"}


def check_gradio() -> None:
    """Raise an ImportError if gradio is not installed."""
    if find_spec("gradio") is None:
        raise ImportError('A demo needs gradio: `pip install "gradio>=6.7"`.')


def serve(settings: DemoSettings, host: str | None = None, port: int | None = None) -> None:
    """
    Serve the page until the process is interrupted. If missing, `host` is this machine only, in a Space the address
    that the Space requires, and `port` the first free one from 7860 on. ImportError without gradio; ValueError if the
    port is not free, or the dataset or the encoder cannot be used.
    """
    check_gradio()
    if port is not None:
        _check_port(host or "127.0.0.1", port)
    views = EncoderViews(settings)
    with tempfile.TemporaryDirectory(prefix="lejepa-demo-", ignore_cleanup_errors=True) as folder:
        _launch(views, Uploads(folder), host, port)


def _launch(views: EncoderViews, uploads: Uploads, host: str | None, port: int | None) -> None:
    os.environ["GRADIO_TEMP_DIR"] = uploads.folder  # otherwise it is shared by all of a machine's pages
    page = build_page(views, uploads)
    import gradio
    from starlette.middleware import Middleware

    uploads.keep()
    page.queue(max_size=_MOST_WAITING, api_open=False)
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        show_error=False,  # errors that are not written for visitors name paths of the server
        max_file_size=LARGEST_UPLOAD,
        state_session_capacity=_MOST_SESSIONS,
        enable_monitoring=False,
        # Each of these would put another server in front of this one, without its limits.
        ssr_mode=False,
        mcp_server=False,
        app_kwargs={"middleware": [Middleware(RequestLimits, uploads=uploads)]},
        css=_STYLE,
        # Fonts of the reader's system, because others would be loaded from Google.
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )
    logger.info(f"The demo is at {url} until Ctrl+C.")
    page.block_thread()


def build_page(views: EncoderViews, uploads: Uploads) -> "gr.Blocks":
    """Lay out the page, not launched, and connect its parts. Images of visitors are read from `uploads` only."""
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
                    similar = _titled_picture("similar", "Similar places", _CLICK, quiet)
                note = gr.Markdown(elem_id="note")
                among = "None, because this page was started without `--dataset`."
                if views.bank is not None:
                    among = f"among {len(views.bank):,} of the dataset, with the cosine similarity of the embeddings"
                gr.Markdown(f"### Nearest images\n{among}")
                neighbours = gr.Gallery(
                    columns=6, height="auto", object_fit="contain", buttons=[], visible=views.bank is not None,
                    elem_id="neighbours", **quiet,
                )  # fmt: skip
        shown = [similar, seen, patches, heat, neighbours, note]  # after the first one in the order of a `View`

        # Whatever these functions receive may be forged: a browser can send any value, in any order.
        def look(chosen: str | int, enlarge: object) -> tuple:
            view = _look(views, uploads, chosen, _checked_enlargement(enlarge))
            return None, *view  # places of another image are forgotten

        def look_at_upload(file: object, enlarge: object) -> tuple:
            path = _for_visitors(uploads.path_of, file)
            return path, *look(path, enlarge)

        def look_at_example(enlarge: object, picked: gr.SelectData) -> tuple:
            number = picked.index
            if type(number) is not int or not 0 <= number < len(views.examples):
                raise gr.Error(f"`example` must be 0 to {len(views.examples) - 1}.", print_exception=False)
            picture = draw_thumbnail(views.examples[number][0]) if takes_pictures else None
            return number, picture, *look(number, enlarge)

        def look_again(chosen: str | int | None, enlarge: object) -> tuple:
            return look(chosen, enlarge) if chosen is not None else (gr.skip(),) * len(shown)

        def look_for_similar(chosen: str | int | None, enlarge: object, picked: gr.SelectData) -> tuple:
            if chosen is None:
                return gr.skip(), gr.skip()
            return _similar(views, uploads, chosen, _checked_enlargement(enlarge), picked.index)

        # Gradio's preprocessing would reduce 16 bits to 8, and would hide why a file is broken.
        upload.upload(look_at_upload, [upload, enlarge], [chosen, *shown], preprocess=False, **_ONE_AT_A_TIME)
        seen.select(look_for_similar, [chosen, enlarge], [similar, note], **_ONE_AT_A_TIME)
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


def _look(views: EncoderViews, uploads: Uploads, chosen: str | int, enlarge: int) -> View:
    """The pictures of an example or an upload. The page shows why a file cannot be read."""
    return _with_encoder(views.look, _image(views, uploads, chosen), enlarge)


def _similar(
    views: EncoderViews, uploads: Uploads, chosen: str | int, enlarge: int, place: object
) -> tuple["Image.Image", str]:
    """Where the image is similar to the place on its picture that a visitor clicked, in pixels from left and top."""
    import gradio as gr

    match place:
        case [int(x), int(y)]:
            found = _with_encoder(views.similar, _image(views, uploads, chosen), enlarge, x, y)
            if found is not None:
                return found
    raise gr.Error("The place must be inside of the image.", print_exception=False)


def _image(views: EncoderViews, uploads: Uploads, chosen: str | int) -> "Image.Image | np.ndarray":
    """An example or an upload, decoded."""
    uploads.tidy()
    if isinstance(chosen, int):
        return views.examples[chosen][0]
    content, values = _for_visitors(uploads.read, chosen), views.extractor.pixel_range
    return _for_visitors(decode_upload, content, views.channels, values)


def _with_encoder(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function that uses the encoder. Its ValueErrors are not written for visitors: Gradio logs them."""
    import gradio as gr

    try:
        return function(*arguments)
    except ValueError as error:
        raise gr.Error("The encoder cannot be used with this image; the server's log has the reason.") from error


def _checked_enlargement(value: object) -> int:
    """The number of the slider; its ends are checked by the browser only."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value in range(1, MOST_ENLARGED + 1):
        return int(value)
    import gradio as gr

    raise gr.Error(f"The resolution must be a whole number from 1 to {MOST_ENLARGED}.", print_exception=False)


def _for_visitors(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function whose ValueErrors are written for visitors, and show them on the page."""
    import gradio as gr

    try:
        return function(*arguments)
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _check_port(host: str, port: int) -> None:
    """Refuse a port that is not free before the encoder is loaded; Gradio checks it afterwards."""
    if not 1 <= port <= 65535:
        raise ValueError(f"`port` must be 1 to 65535, got {port}; leave it out for the first free one.")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise ValueError(f"`port` {port} of {host} cannot be used ({error}): choose another with --port.") from error
