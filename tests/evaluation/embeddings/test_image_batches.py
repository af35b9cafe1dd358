import io
import threading

import pytest
from PIL import Image

from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.sources import ImageSource
from lejepa_hf.evaluation.embeddings import image_batches as module
from lejepa_hf.evaluation.embeddings.image_batches import image_batches


def encoded(number: int) -> dict:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), number % 256).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{number}.png"}


def source(count: int, broken=()) -> ImageSource:
    rows = [{"image": encoded(i), "label": -i} for i in range(count)]
    for number in broken:
        rows[number]["image"]["bytes"] = b"nothing"
    return ImageSource(rows, "made here", "image", "label")


def grey(images: list[Image.Image]) -> list[int]:
    return [image.getpixel((0, 0)) for image in images]


@pytest.mark.parametrize("batch_size", [1, 7, 50, 90])
def test_rows_stay_in_order_and_keep_what_belongs_to_them(batch_size):
    batches = list(image_batches(source(50, broken=[0, 9, 49]), batch_size, decode_image, grey, ""))
    good = [number for number in range(50) if number not in (0, 9, 49)]
    assert [number for batch in batches for number in batch.numbers] == good
    assert [value for batch in batches for value in batch.images or []] == good
    assert [label for batch in batches for label in batch.labels] == [-number for number in good]
    assert [path for batch in batches for path in batch.paths] == [f"{number}.png" for number in good]
    assert [batch.stop for batch in batches] == [*range(batch_size, 50, batch_size), 50]
    broken = {number: reason for batch in batches for number, reason in batch.broken.items()}
    assert list(broken) == [0, 9, 49] and "UnidentifiedImageError" in broken[9]


def test_numbers_go_on_from_the_start():
    rows = source(50).dataset[30:]
    batches = list(image_batches(source(50), 8, decode_image, grey, "", rows, 30))
    assert [number for batch in batches for number in batch.numbers] == list(range(30, 50))
    assert [value for batch in batches for value in batch.images] == list(range(30, 50))
    assert batches[-1].stop == 50


def test_work_is_done_in_threads_a_few_batches_ahead():
    drawn, threads = [], set()

    def rows():
        for number in range(1000):
            drawn.append(number)
            yield {"image": encoded(number), "label": 0}

    def note(images):
        threads.add(threading.current_thread())
        return images

    batches = image_batches(source(1), 4, decode_image, note, "", rows())
    next(batches)
    assert len(drawn) <= 4 * 10
    assert threading.main_thread() not in threads
    batches.close()
    assert not any(thread.is_alive() for thread in threads)


def test_an_error_of_the_preprocessing_comes_through():
    def fail(images):
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        list(image_batches(source(9), 4, decode_image, fail, ""))


def test_images_that_are_away_for_a_moment_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WAITS", (0.01,) * 1000)
    (tmp_path / "now.png").write_bytes(encoded(1)["bytes"])
    rows = [{"image": {"bytes": None, "path": str(tmp_path / name)}, "label": 0} for name in ("now.png", "later.png")]
    timer = threading.Timer(0.3, lambda: (tmp_path / "later.png").write_bytes(encoded(2)["bytes"]))
    timer.start()
    (batch,) = image_batches(ImageSource(rows, "made here", "image", "label"), 4, decode_image, grey, "")
    assert (batch.images, batch.broken) == ([1, 2], {})
    timer.join()


def test_time_for_images_that_come_back_is_not_counted(tmp_path, monkeypatch):
    waited = []

    def come_back(seconds):
        waited.append(seconds)
        for number in range(100):  # one more at each attempt
            if not (file := tmp_path / f"{number}.png").exists():
                file.write_bytes(encoded(number)["bytes"])
                return

    monkeypatch.setattr(module.time, "sleep", come_back)
    rows = [{"image": {"bytes": None, "path": str(tmp_path / f"{number}.png")}, "label": 0} for number in range(100)]
    monkeypatch.setattr(module, "cores_of_this_process", lambda: 1)  # images are tried one by one
    batches = list(image_batches(ImageSource(rows, "made here", "image", "label"), 50, decode_image, grey, ""))
    assert [len(batch.broken) for batch in batches] == [0, 0]
    assert sum(waited) > 15


def test_images_that_stay_away_are_waited_for_once_in_all(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    rows = [{"image": {"bytes": None, "path": str(tmp_path / f"{name}.png")}, "label": 0} for name in range(500)]
    rows += source(1, broken=[0]).dataset  # no file, so nothing to wait for
    batches = list(image_batches(ImageSource(rows, "made here", "image", "label"), 50, decode_image, grey, ""))
    assert sum(len(batch.broken) for batch in batches) == 501
    assert 7 < sum(waited) <= 15


def test_too_little_memory_for_an_image_costs_no_others(monkeypatch):
    def decode(value):
        if value["path"] == "1.png":
            raise MemoryError("9000 x 9000 pixels")
        return decode_image(value)

    (batch,) = image_batches(source(3), 4, decode, grey, "")
    assert (batch.images, batch.broken) == ([0, 2], {1: "1.png: MemoryError: 9000 x 9000 pixels"})
