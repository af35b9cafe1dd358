"""Each recipe of the page trains on small files of its kind."""

import io
import json
import tarfile

import numpy as np
import pytest
from data.image_files import fits, tiff
from doc_blocks import blocks_of
from hub_client import connect
from hub_server import HubServer
from PIL import Image

from lejepa_hf.runs import pretraining
from lejepa_hf.runs.recipe_sources import training_source
from lejepa_hf.runs.recipe_text import load_yaml
from lejepa_hf.runs.recipes import parse_recipe

BLOCKS = blocks_of("docs/bring_your_images.md", "yaml")
RNG = np.random.default_rng(0)
TINY = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
SHORT = [
    "--max_steps", "2", "--save_steps", "2", "--logging_steps", "1", "--per_device_train_batch_size", "4", "--use_cpu",
    "--num_slices", "16", "--projector_dims", "16", "8", "--num_local_views", "1", "--global_crop_size", "24",
    "--local_crop_size", "16", "--blur_probability", "0", "--dataloader_num_workers", "0", "--monitor_images", "8",
    "--eval_protocols", "knn",
]  # fmt: skip


def noise(*shape: int, kind: str = "u1", high: int = 256) -> np.ndarray:
    return RNG.integers(0, high, shape).astype(kind)


def photographs() -> None:
    for number in range(24):
        path = f"photos/{('cats', 'dogs')[number % 2]}/{number}.jpg"
        write(path, jpeg())
    rows = [f"{('cats', 'dogs')[n % 2]}/{n}.jpg,{('oak', 'fir')[n % 2]},{n // 3}" for n in range(24)]
    write("photos.csv", "\n".join(["file,species,plot", *(f"photos/{row}" for row in rows)]).encode())


def dicom() -> None:
    pydicom = pytest.importorskip("pydicom")
    for number in range(20):
        scan = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
        scan.PixelData = noise(128, 128, kind="<i2", high=2000).tobytes()
        buffer = io.BytesIO()
        scan.save_as(buffer)
        write(f"dicom/patient{number // 2}/{number}.dcm", buffer.getvalue())


def slides_and_scenes() -> None:
    tifffile = pytest.importorskip("tifffile")
    for number in range(12):
        for folder, bands, kind in (("slides", 3, "u1"), ("scenes", 4, "u2")):
            buffer = io.BytesIO()
            pixels = noise(512, 512, bands, kind=kind, high=256 if bands == 3 else 6000)
            colours = "rgb" if bands == 3 else "minisblack"
            tifffile.imwrite(buffer, pixels, tile=(128, 128), photometric=colours, planarconfig="contig")
            write(f"{folder}/{number}.tif", buffer.getvalue())


def stacks() -> None:
    for number in range(4):
        write(f"stacks/{number}.tif", tiff(*noise(6, 40, 40, kind="u2", high=4096)))


def volumes() -> None:
    nibabel = pytest.importorskip("nibabel")
    for number in range(12):
        image = nibabel.Nifti1Image(noise(30, 32, 4, kind="i2", high=1200), np.eye(4))
        write(f"volumes/{number}.nii.gz", nibabel.Nifti1Image.to_bytes(image))
    for path in PLACE[0].glob("volumes/*.nii.gz"):
        path.rename(path.with_suffix(""))  # `to_bytes` does not compress


def sky() -> None:
    pytest.importorskip("astropy")
    for number in range(8):
        write(f"sky/{number}.fits", fits(RNG.random((32, 32)).astype("f4")))


def arrays() -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(PLACE[0] / "galaxies.h5", "w") as file:
        file["images"], file["labels"] = noise(40, 32, 32, 3), np.arange(40) % 2


def tars() -> None:
    for shard in range(2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for number in range(12):
                for name, content in ((f"{number:04}.jpg", jpeg()), (f"{number:04}.cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        write(f"shards/{shard}.tar", buffer.getvalue())


MAKERS = {
    "A folder of photographs": photographs, "A table": photographs, "DICOM": dicom,
    "Histology slides": slides_and_scenes, "Satellite rasters": slides_and_scenes, "Microscopy stacks": stacks,
    "Volumes": volumes, "FITS": sky, "Arrays: npz, HDF5, zarr": arrays, "Tar files": tars, "The Hub": None,
}  # fmt: skip
PLACE: list = []  # the folder of the test that runs


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(48, 64, 3)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(name: str, content: bytes) -> None:
    path = PLACE[0] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PLACE[:] = [tmp_path]
    return tmp_path


def test_each_block_has_a_test():
    assert [block.section for block in BLOCKS] == list(MAKERS)


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if MAKERS[block.section]], ids=lambda block: block.section
)
def test_images_are_found(block, place):
    MAKERS[block.section]()
    (place / "recipe.yaml").write_text(block.code)
    recipe = parse_recipe(place / "recipe.yaml", ["--use_cpu"])
    source = training_source(recipe.data)
    assert source.is_stream or (source.num_images or 0) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.section)
def test_recipes_train(block, place, monkeypatch):
    keys = load_yaml(block.code)
    channels = keys["backbone_config"].get("num_channels", 3)
    backbone = json.dumps(TINY | {"num_channels": channels})
    (place / "recipe.yaml").write_text(block.code)
    arguments = [str(place / "recipe.yaml"), *SHORT, "--backbone_config", backbone, "--output_dir", str(place / "run")]
    if MAKERS[block.section]:
        MAKERS[block.section]()
        assert pretraining.main(arguments) == 0
    else:
        with HubServer(place / "hub") as server:
            connect(server, monkeypatch)
            parse_recipe(place / "recipe.yaml", ["--use_cpu"])  # its images are those of tests/test_hub_datasets.py
        return
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2 and not any(row.get("broken_images") for row in rows)
    assert (place / "run" / "encoder" / "model.safetensors").is_file()
