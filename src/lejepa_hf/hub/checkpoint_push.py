"""Checkpoints to branches of a repository, without their optimizer state, while the training goes on."""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import TrainerCallback

from ..training_args import LeJEPATrainingArguments
from .export import export_encoder
from .push import Target, push_run
from .trained_model import read_trained_model

logger = logging.getLogger("lejepa_hf")

# What an export reads of a checkpoint, as one process or FSDP left it; never the optimizer's.
_READ = (
    "config.json",
    "preprocessor_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model_fsdp.bin",
    "pytorch_model_fsdp_0/*",
)
_LOG = "push.log"


@dataclass
class _Upload:
    folder: Path  # links to the files of a checkpoint, which may be deleted meanwhile
    process: subprocess.Popen | None = field(default=None, compare=False)

    @property
    def branch(self) -> str:
        return self.folder.name.removeprefix("_").removesuffix("_to_push")

    def last_words(self) -> str:
        log = self.folder / _LOG
        text = log.read_text(errors="replace", encoding="utf-8").strip() if log.is_file() else ""
        return text.splitlines()[-1].removeprefix("error: ") if text else f"exit status {self.process.returncode}"

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class CheckpointPush(TrainerCallback):
    """
    Pushes every saved checkpoint to the branch `checkpoint-N`: as an encoder that `AutoModel` loads, and in
    `pretraining/` with its projector, from which `continue_from` goes on.

    A process of its own exports and uploads, on the CPU, one checkpoint after the other; training neither waits for it
    nor stops when it fails: a failed upload is tried again behind the next save, and at the end. Where saves come
    faster than uploads, only the newest waits, unless all are wanted. An upload outlives a training that is stopped;
    what has not arrived when the training is resumed is pushed then. Only the first rank does anything.

    Args:
        args ([`LeJEPATrainingArguments`]): `output_dir` and the settings that begin with `hub_`.
    """

    def __init__(self, args: LeJEPATrainingArguments):
        self._args = args
        self._all = args.hub_always_push or args.hub_strategy == "all_checkpoints"
        # What a run that was killed did not bring to its end comes first.
        found = Path(args.output_dir).glob("_checkpoint-*_to_push") if args.process_index == 0 else ()
        self._waiting = [_Upload(path) for path in sorted(found, key=lambda path: path.stat().st_mtime)]
        self._failed: list[_Upload] = []
        self._running: _Upload | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._go_on()

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        self._go_on()
        kept = self._failed + self._waiting if self._all else self._failed[-1:]
        for upload in self._failed + self._waiting:
            if upload not in kept:
                logger.warning(f"{upload.branch} is not pushed, newer ones are. `hub_strategy` could say otherwise.")
                upload.forget()
        self._failed, self._waiting = [], kept
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            self._waiting.append(_keep(checkpoint))
        except OSError as error:  # no room for copies, where there are no links
            logger.warning(f"{checkpoint.name} is not pushed: {error}")
        self._go_on()

    def on_log(self, args, state, control, **kwargs):
        self._go_on()

    def finish(self) -> None:
        """Wait for what is under way, and try once more what failed."""
        self._drain()
        self._waiting, self._failed = self._failed, []
        self._drain()
        for upload in self._failed:
            upload.forget()

    def _drain(self) -> None:
        self._go_on()
        while self._running is not None:
            logger.info(f"Waiting for {self._running.branch} to be pushed.")
            self._running.process.wait()
            self._go_on()

    def _go_on(self) -> None:
        """Look after the upload that runs; start the next one when it has ended."""
        if self._running is not None:
            if self._running.process.poll() is None:
                return
            upload, self._running = self._running, None
            if upload.process.returncode == 0:
                logger.info(f"{upload.branch} is pushed to {self._args.hub_model_id}.")
                upload.forget()
            else:
                logger.warning(f"{upload.branch} could not be pushed: {upload.last_words()}")
                self._failed.append(upload)
        while self._waiting and self._running is None:
            upload = self._waiting.pop(0)
            try:
                upload.process = self._start(upload)
                self._running = upload
            except OSError as error:
                logger.warning(f"{upload.branch} could not be pushed: {error}")
                self._failed.append(upload)

    def _start(self, upload: _Upload) -> subprocess.Popen:
        args = self._args
        # One core, no GPU: the rest belongs to the training.
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        if args.hub_token is not None:
            environment["HF_TOKEN"] = args.hub_token  # not as an argument, which every user of a machine can read
        visibility = {True: "private", False: "public", None: "default"}[args.hub_private_repo]
        command = [sys.executable, "-m", __name__, str(upload.folder), args.hub_model_id, upload.branch, visibility]
        with (upload.folder / _LOG).open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )


def prepare_repository(args: LeJEPATrainingArguments) -> None:
    """
    Make the repository of `hub_model_id`, before any long work.

    Args:
        args ([`LeJEPATrainingArguments`]): The settings that begin with `hub_`.

    Raises:
        ValueError: If it cannot be made or written.
    """
    try:
        Target(args.hub_model_id, args.hub_private_repo, args.hub_revision, args.hub_token).prepare()
    except OSError as error:
        raise ValueError(f"`push_to_hub`: {error}") from error


def _keep(checkpoint: Path) -> _Upload:
    """Second names for a checkpoint's files: they stay when newer checkpoints take its place, and cost no room."""
    folder = checkpoint.with_name(f"_{checkpoint.name}_to_push")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in {path for pattern in _READ for path in checkpoint.glob(pattern)}:
        target = folder / path.relative_to(checkpoint)
        target.parent.mkdir(exist_ok=True)
        _link(path, target)
    return _Upload(folder)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # not every file system has links
        shutil.copy2(path, target)


def _exported(checkpoint: Path) -> Path:
    """The encoder, and in its `pretraining/` the whole model; links where the checkpoint has whole weights."""
    encoder = export_encoder(checkpoint, checkpoint / "encoder")
    pretraining = encoder / "pretraining"
    shutil.rmtree(pretraining, ignore_errors=True)  # of an upload that was killed
    pretraining.mkdir()
    if not any(checkpoint.glob("model*.safetensors")):  # FSDP's
        read_trained_model(checkpoint).save_pretrained(pretraining)
    for path in [*checkpoint.glob("*.json"), *checkpoint.glob("model*.safetensors")]:
        if not (pretraining / path.name).exists():
            _link(path, pretraining / path.name)
    return encoder


def _export_and_push(folder: str, repo_id: str, branch: str, visibility: str) -> int:
    private = {"private": True, "public": False, "default": None}[visibility]
    try:
        push_run(_exported(Path(folder)), repo_id, private, branch)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_export_and_push(*sys.argv[1:]))
