"""
Time of the parts of a training step, for three implementations: LeJEPATrainer's own step; a bare loop with plain
torch parts, in which torchvision cuts and colours one view after the other and SIGReg stores slices x knots; and the
same loop with lightly's transform and loss, if that package is installed. Network, number and sizes of views, batch
and optimiser are the same.

    python benchmarks/benchmark_training.py [--recipe recipes/digits/resnet_tiny.yaml] [--steps 60]
    python benchmarks/benchmark_training.py --model vit_s16 --batch_size 4 --steps 6 --dataset "SHARDS/train-*.parquet"
    python benchmarks/benchmark_training.py --model vit_s16 --batch_size 256 --device cuda --views_in_memory --compile
    python benchmarks/benchmark_training.py --model resnet50 --batch_size 256 --device cuda --jpegs 4096 --workers 12

With `--views_in_memory` all implementations get the same bytes of finished crops, copied from pinned memory while the
device works, and colours and blur on the device. With `--jpegs` generated photographs are decoded and cut in every
step, as in a run on files, and neither `datasets` nor a folder of images is needed.

Further `--key value` pairs override the recipe. On a CPU the implementations alternate step by step, so that other
load on the machine affects all of them alike, and each one cuts its views in its own process. On a GPU they run one
after the other, in bf16; times come from events on its stream, and nothing waits for a step to end but what reads its
loss. With `--workers` they run one after the other too, because workers of one would be busy or ahead while another is
timed, and times are means instead of medians over the steps after a warm-up, in milliseconds. Memory is measured with
each implementation alone in a separate process. Rows are added to results/training.csv: `data` is the wait for the
batch, `photometric` colours and blur on the device (for the others, the copy to the device), `forward` and `backward`
backbone and projector, `objective` SIGReg and prediction in both directions, `rest` logging and the schedule.
"""

import argparse
import csv
import datetime
import gc
import io
import itertools
import multiprocessing
import shutil
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, LeJEPATrainer, MultiCropCollator, MultiCropTransform
from lejepa_hf.data.batch import GLOBAL_VIEWS, LOCAL_VIEWS, PHOTOMETRIC_KEYS, tensors_of_views
from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.photometric import apply_photometric
from lejepa_hf.losses.prediction import prediction_loss
from lejepa_hf.ops.epps_pulley_reference import quadrature
from lejepa_hf.runs.recipes import Recipe, parse_recipe
from lejepa_hf.training.compilation import compile_if_requested

RESULTS = Path(__file__).parent / "results" / "training.csv"
PARTS = ("data", "photometric", "forward", "objective", "backward", "optimizer", "rest")
VITS = {  # hidden size, layers, heads, patch
    "vit_s16": (384, 12, 6, 16),
    "vit_b16": (768, 12, 12, 16),
    "vit_l14": (1024, 24, 16, 14),
    "vit_h14": (1280, 32, 16, 14),
}
# The sizes of transformers' default configs.
CNNS = {"convnext_t": {"model_type": "convnext"}, "resnet50": {"model_type": "resnet"}}
MODELS = (*VITS, *CNNS)
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312}  # dense bf16 of the SXM cards


class Clock:
    """
    Time between the marks of a step, summed by the mark that ends the interval. On a GPU, marks are events, which
    nothing waits for until all steps are done: the host works ahead, as it does in a run.
    """

    def __init__(self, device: torch.device):
        self.on_gpu, self.marks_of_steps = device.type == "cuda", []

    def begin(self) -> None:
        self.marks = []
        self.mark("begin")

    def mark(self, name: str) -> None:
        if self.on_gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = 1e3 * time.perf_counter()
        self.marks.append((name, now))

    def end(self) -> None:
        self.mark("rest")
        self.marks_of_steps.append(self.marks)

    def between(self, before, after) -> float:
        return before.elapsed_time(after) if self.on_gpu else after - before

    def steps(self) -> list[dict[str, float]]:
        """Milliseconds of the parts of each step, and its total."""
        if self.on_gpu:
            torch.cuda.synchronize()
        found = []
        for marks in self.marks_of_steps:
            step = dict.fromkeys(PARTS, 0.0)
            for (_, before), (name, after) in itertools.pairwise(marks):
                step[name] += self.between(before, after)
            found.append(step | {"total": self.between(marks[0][1], marks[-1][1])})
        return found

    def watch(self, projector: torch.nn.Module) -> None:
        """Set marks where projections leave the network and where their gradient returns."""

        def projected(module, inputs, projections):
            self.mark("forward")
            projections.register_hook(lambda gradient: self.mark("objective"))

        projector.register_forward_hook(projected)


class TimedTrainer(LeJEPATrainer):
    """A Trainer that marks the parts of its own steps."""

    clock: Clock

    def get_batch_samples(self, *args):
        self.clock.mark("rest")
        batches = super().get_batch_samples(*args)
        self.clock.mark("data")
        return batches

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        self.clock.mark("photometric")
        return inputs

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.clock.mark("objective")
        return loss

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.clock.mark("backward")
        return loss


class Turns(transformers.TrainerCallback):
    """Takes a step of each other loop after each step of the Trainer."""

    def __init__(self, clock: Clock, others: list):
        self.clock, self.others = clock, others

    def on_train_begin(self, args, state, control, **kwargs):
        self.clock.begin()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.clock.mark("rest")

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.clock.mark("optimizer")

    def on_step_end(self, args, state, control, **kwargs):
        self.clock.end()
        for other in self.others:
            other.step()
        self.clock.begin()


class BareLoop:
    """
    Batches are lists of views, the global ones first, or those of our collator; the loss gets projections (V, B, K).
    """

    def __init__(self, recipe: Recipe, model: LeJEPAForPreTraining, batches, loss):
        self.device, self.batches, self.loss = recipe.training.device, iter(batches), loss
        self.num_global_views, self.bf16 = recipe.data.num_global_views, recipe.training.bf16
        self.transform = MultiCropTransform.from_settings(recipe.data, 0)
        self.model = model.to(self.device).train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        self.clock = Clock(self.device)
        self.clock.watch(model.projector)

    def views_on_device(self, batch: list | dict) -> list[torch.Tensor]:
        """Copied while the device works; bytes get their colours, blur and normalisation there."""
        if isinstance(batch, list):
            return [view.to(self.device, non_blocking=True) for view in batch]
        batch = {
            name: value if name in PHOTOMETRIC_KEYS else value.to(self.device, non_blocking=True)
            for name, value in tensors_of_views(batch).items()
        }
        views = apply_photometric(batch, self.transform)
        return [view for name in (GLOBAL_VIEWS, LOCAL_VIEWS) if name in views for view in views[name].unbind(1)]

    def step(self) -> None:
        self.clock.begin()
        batch = next(self.batches)
        self.clock.mark("data")
        views = self.views_on_device(batch)
        self.clock.mark("photometric")
        sizes = [views[: self.num_global_views], views[self.num_global_views :]]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            embeddings = [self.model.encoder(torch.cat(of_size)).pooler_output for of_size in sizes if of_size]
            projections = self.model.projector(*embeddings).unflatten(0, (len(views), len(views[0])))
            loss = self.loss(projections, self.num_global_views)
        self.clock.mark("objective")
        loss.backward()
        self.clock.mark("backward")
        self.optimizer.step()
        self.clock.mark("optimizer")
        self.optimizer.zero_grad()
        loss.item()  # to be logged
        self.clock.end()


class PlainLoss:
    """Prediction and SIGReg as the formulas are written, storing cosine and sine of each slice and knot."""

    def __init__(self, config: LeJEPAConfig):
        self.config = config

    def __call__(self, projections: torch.Tensor, num_global_views: int) -> torch.Tensor:
        weight, (num_images, dim) = self.config.sigreg_weight, projections.shape[1:]
        rule = quadrature(self.config.num_knots, self.config.t_max, projections.device)
        directions = torch.randn(dim, self.config.num_slices, device=projections.device)
        angles = (projections @ (directions / directions.norm(dim=0)))[..., None] * rule.knots  # (V, B, M, T)
        error = (angles.cos().mean(1) - rule.normal) ** 2 + angles.sin().mean(1) ** 2
        sigreg = num_images * (error @ rule.weights).mean()
        return (1 - weight) * prediction_loss(projections, num_global_views) + weight * sigreg


def has_lightly() -> bool:
    """Whether lightly is installed with everything it imports."""
    try:
        import lightly.loss
        import lightly.transforms  # noqa: F401
    except ImportError:
        return False
    return True


def lightly_loss(config: LeJEPAConfig):
    from lightly.loss.lejepa_loss import LeJEPALoss

    theirs = LeJEPALoss(config.sigreg_weight, False, config.num_knots, config.t_max, config.num_slices)

    def loss(projections: torch.Tensor, num_global_views: int) -> torch.Tensor:
        theirs.to(projections.device)
        return theirs(global_proj=projections[:num_global_views], local_proj=projections[num_global_views:])

    return loss


class Views:
    """An image -> its views, one after the other; workers that are not forked get it as a pickle."""

    def __init__(self, transforms: list):
        self.transforms = transforms

    def __call__(self, image) -> list[torch.Tensor]:
        return [transform(image) for transform in self.transforms]


def torchvision_transform(data):
    """The recipe's views, one after the other, from a PIL image."""

    def of_size(size: int, scale: list[float]) -> v2.Compose:
        jitters = (data.brightness_jitter, data.contrast_jitter, data.saturation_jitter, data.hue_jitter)
        bicubic = v2.InterpolationMode.BICUBIC
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale, data.crop_aspect_ratio, interpolation=bicubic),
                v2.RandomHorizontalFlip(data.horizontal_flip_probability),
                v2.RandomApply([v2.ColorJitter(*jitters)], data.color_jitter_probability),
                v2.RandomGrayscale(data.grayscale_probability),
                v2.RandomApply([v2.GaussianBlur(data.blur_kernel_size, data.blur_sigma)], data.blur_probability),
                v2.RandomSolarize(data.solarize_threshold, data.solarize_probability),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(data.image_mean, data.image_std),
            ]
        )

    large = of_size(data.global_crop_size, data.global_crop_scale)
    small = of_size(data.local_crop_size, data.local_crop_scale)
    views = [large] * data.num_global_views + [small] * data.num_local_views
    return Views(views)


def lightly_transform(data, **colours):
    """The recipe's views as lightly's transform cuts them, with its own defaults for colours that are not given."""
    from lightly.transforms import DINOTransform

    return DINOTransform(
        data.global_crop_size,
        tuple(data.global_crop_scale),
        data.local_crop_size,
        tuple(data.local_crop_scale),
        data.num_local_views,
        normalize={"mean": data.image_mean, "std": data.image_std},
        **colours,
    )


class Transformed(torch.utils.data.Dataset):
    """Map-style dataset that turns rows into views."""

    def __init__(self, rows, column: str, transform):
        self.rows, self.column, self.transform = rows, column, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.transform(decode_image(self.rows[index][self.column]))


def endless(loader: DataLoader):
    while True:
        yield from loader


def in_memory(recipe: Recipe) -> list[dict]:
    """Rows of crops that were cut in advance: bytes, and the random numbers of their colours."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    transform = MultiCropTransform.from_settings(recipe.data, 0)
    return [transform(noise, index=index) for index in range(2 * recipe.training.per_device_train_batch_size)]


def generated_jpegs(number: int, distinct: int = 64) -> list[dict]:
    """Rows of encoded photographs of ImageNet's usual size; as many different ones as `distinct`."""
    rng, files = np.random.default_rng(0), []
    for _ in range(min(number, distinct)):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
        noisy = np.asarray(coarse, dtype=np.int16) + rng.integers(-12, 13, (375, 500, 3), dtype=np.int16)
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return [{"image": files[index % len(files)]} for index in range(number)]


def sources(recipe: Recipe, options: argparse.Namespace) -> dict:
    """For each implementation the rows that its loader reads, and what makes a batch of them."""
    transform = MultiCropTransform.from_settings(recipe.data, 0)
    if options.views_in_memory:
        rows, collator = in_memory(recipe), MultiCropCollator(transform)
        return dict.fromkeys(("ours", "bare loop", "lightly"), (rows, collator))
    if options.jpegs:
        rows, column = generated_jpegs(options.jpegs), "image"
    else:
        from lejepa_hf.data.sources import load_source

        source = load_source(recipe.data.dataset, recipe.data.train_split)
        rows, column = source.dataset, source.image_column
    found = {"ours": (rows, MultiCropCollator(transform, column))}
    found["bare loop"] = Transformed(rows, column, torchvision_transform(recipe.data)), None
    if has_lightly():
        found["lightly"] = Transformed(rows, column, lightly_transform(recipe.data)), None
    return found


def backbone_settings(name: str) -> dict:
    """Settings of a recipe for one of `MODELS`."""
    if name in CNNS:
        return {"backbone_config": CNNS[name], "local_crop_size": 96}
    hidden, layers, heads, patch = VITS[name]
    backbone = {"model_type": "vit", "image_size": 224, "patch_size": patch, "hidden_size": hidden}
    backbone |= {"num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * hidden}
    return {"backbone_config": backbone, "local_crop_size": 98 if patch == 14 else 96}


def build_model(recipe: Recipe) -> LeJEPAForPreTraining:
    return LeJEPAForPreTraining(
        LeJEPAConfig(backbone_config=recipe.model.backbone_config, **recipe.model.config_kwargs())
    )


def parse(options: argparse.Namespace, folder: str, steps: int) -> Recipe:
    settings = {"output_dir": folder, "max_steps": steps, "dataloader_num_workers": options.workers}
    settings |= {"save_strategy": "no", "disable_tqdm": True, "streaming": False, "eval_split": "null"}
    settings |= {"bf16": options.device == "cuda", "use_cpu": options.device == "cpu", "report_to": "none"}
    if options.batch_size:
        settings["per_device_train_batch_size"] = options.batch_size
    if options.compile:
        settings["torch_compile"] = True
    if options.model:
        settings |= backbone_settings(options.model)
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return parse_recipe(options.recipe, [*arguments, *options.overrides])


def bare_loop(options: argparse.Namespace, recipe: Recipe, found: tuple, loss) -> BareLoop:
    """A loop over these rows, compiled by the Trainer's rule."""
    model, (rows, collate) = build_model(recipe), found
    compile_if_requested(model.encoder.backbone, recipe.training, by_block=False)
    batch, workers = recipe.training.per_device_train_batch_size, options.workers
    loader = DataLoader(
        rows, batch, shuffle=True, drop_last=True, num_workers=workers, pin_memory=options.device == "cuda",
        collate_fn=collate, persistent_workers=workers > 0,
        # Views of this loop are floats: two large batches for each of 16 workers would fill the shared memory.
        prefetch_factor=(1 if batch >= 256 else 2) if workers else None,
    )  # fmt: skip
    return BareLoop(recipe, model, endless(loader), loss(model.config))


def train(options: argparse.Namespace, steps: int, ways: tuple[str, ...]) -> dict[str, Clock]:
    """Steps of these implementations, alternating."""
    gc.collect()  # earlier models, which would take memory of these
    with tempfile.TemporaryDirectory() as folder:
        recipe = parse(options, f"{folder}/run", steps)
        found = sources(recipe, options)
        losses = {"bare loop": PlainLoss, "lightly": lightly_loss}
        others = {way: bare_loop(options, recipe, found[way], loss) for way, loss in losses.items() if way in ways}
        clocks = {way: loop.clock for way, loop in others.items()}
        if "ours" not in ways:
            for _ in range(steps):
                others[ways[0]].step()
            return clocks
        model, (rows, collator) = build_model(recipe), found["ours"]
        clock = Clock(recipe.training.device)
        clock.watch(model.projector)
        trainer = TimedTrainer(model, recipe.training, rows, collator, callbacks=[Turns(clock, list(others.values()))])
        trainer.clock = clock
        trainer.train()
        return {"ours": clock, **clocks}


def peak_alone(options: argparse.Namespace, way: str) -> float:
    """Peak memory of one implementation, in MiB: allocated on a GPU, resident in a process of its own on a CPU."""
    if options.device == "cuda":
        gc.collect()  # earlier models and their buffers
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        train(options, 3, (way,))
        return torch.cuda.max_memory_allocated() / 2**20
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(resident_peak_mib, options, way).result()


def resident_peak_mib(options: argparse.Namespace, way: str) -> float:
    """Peak memory of this process (Linux only)."""
    train(options, 3, (way,))
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 1024


def flops_per_image(recipe: Recipe) -> int:
    """Operations of backbone and projector over all views: forward, and twice as many backward."""
    data = recipe.data
    with torch.device("meta"):
        model = build_model(recipe).eval()
        sizes = [(data.num_global_views, data.global_crop_size), (data.num_local_views, data.local_crop_size)]
        views = [torch.empty(number, len(data.image_mean), side, side) for number, side in sizes if number]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.projector(*[model.encoder(of_size).pooler_output for of_size in views])
    return 3 * counter.get_total_flops()


def measure(options: argparse.Namespace) -> list[dict]:
    ways = ("ours", "bare loop", "lightly") if has_lightly() else ("ours", "bare loop")
    if "lightly" not in ways:
        print("lightly cannot be imported: left out")
    memory = {} if options.skip_peak else {way: peak_alone(options, way) for way in ways}
    # The first steps also take what the workers prepared while the network was compiled or tuned.
    warmup = max(min(10, max(1, options.steps // 3)), 2 * options.workers if options.jpegs else 0)
    # Workers of one implementation would be busy, or would work ahead, while another one takes its steps.
    # On a GPU, one that reads its loss would keep the host from working ahead in the steps of another.
    groups = [(way,) for way in ways] if options.workers or options.device == "cuda" else [ways]
    clocks = {way: clock for group in groups for way, clock in train(options, options.steps + warmup, group).items()}
    typical = statistics.fmean if options.workers else statistics.median  # workers deliver several batches at a time
    recipe = parse(options, "unused", 1)
    data, batch = recipe.data, recipe.training.per_device_train_batch_size
    on_gpu = options.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    peak = options.peak_tflops or next((peak for card, peak in PEAK_TFLOPS.items() if card in name), None)
    flops = flops_per_image(recipe)
    rows = []
    for way, clock in clocks.items():
        steps = clock.steps()[warmup:]
        times = {part: typical([step[part] for step in steps]) for part in (*PARTS, "total")}
        rate = 1e3 * batch / times["total"]
        baseline = typical([step["total"] for step in clocks["bare loop"].steps()[warmup:]])
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "way": way,
                "model": options.model or options.recipe,
                "device": name,
                "precision": "bf16" if recipe.training.bf16 else "fp32",
                "compiled": options.compile,
                "batch": batch,
                "views": f"{data.num_global_views} x {data.global_crop_size} + "
                f"{data.num_local_views} x {data.local_crop_size}",
                "views_in_memory": options.views_in_memory,
                "workers": options.workers,
                "steps": options.steps,
                **{f"{part}_ms": round(value, 2) for part, value in times.items()},
                "images_per_second": round(rate, 2),
                "times_faster_than_bare": round(baseline / times["total"], 3),
                "data_share": round(times["data"] / times["total"], 4),
                "objective_share": round((times["objective"] + times["photometric"]) / times["total"], 4),
                "peak_mib": round(memory[way]) if memory else "",
                "gflop_per_image": round(flops / 1e9, 2),
                "mfu": round(flops * rate / (1e12 * peak), 4) if on_gpu and peak else "",
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "commit": commit(),
            }
        )
    return rows


def commit() -> str:
    """Commit of the measured code; empty without git, which not every machine that is lent has."""
    if shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="default: recipes/digits/resnet_tiny.yaml; with --model, the ImageNet recipe")
    parser.add_argument("--model", choices=list(MODELS), help="network that replaces the recipe's")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch_size", type=int, help="default: the recipe's")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--views_in_memory", action="store_true", help="make all views before the timing")
    parser.add_argument("--jpegs", type=int, default=0, help="number of generated JPEG images to train on")
    parser.add_argument("--workers", type=int, default=0, help="data workers of each implementation's loader")
    parser.add_argument("--skip_peak", action="store_true", help="leave out the runs that measure memory")
    parser.add_argument("--compile", action="store_true", help="compile the backbone, for all implementations")
    parser.add_argument("--peak_tflops", type=float, help="peak TFLOPS of the GPU in bf16; known for some GPUs")
    options, options.overrides = parser.parse_known_args(arguments)
    if options.recipe is None:
        options.recipe = f"recipes/{'imagenet1k/vit_s16' if options.model else 'digits/resnet_tiny'}.yaml"
    return options


def main(arguments: list[str] | None = None) -> None:
    rows = measure(read_options(arguments))
    fresh = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print({key: row[key] for key in row if key.endswith(("way", "_ms", "second", "bare", "share", "mib", "mfu"))})


if __name__ == "__main__":
    main()
