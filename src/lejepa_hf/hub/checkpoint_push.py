"""Pushes checkpoints to branches of a repository, without optimizer state, while training continues."""

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerControl, TrainerState, TrainingArguments

from ..system.run_folder import RunFolder
from ..training.construction_checks import CheckpointPublisher
from ..training_args import LeJEPATrainingArguments
from .export import export_encoder
from .public_files import MODEL_FILES
from .push import Target, push_run
from .trained_model import FSDP_SHARDS, FSDP_WEIGHTS, read_trained_model

logger = logging.getLogger("lejepa_hf")

# Files of a checkpoint that an export reads, as one process or FSDP wrote them; never the optimizer's.
_READ = (*MODEL_FILES, FSDP_WEIGHTS, f"{FSDP_SHARDS}/*")
_LOG = "push.log"


@dataclass
class _Upload:
    folder: Path  # links to the files of a checkpoint, which may be deleted meanwhile

    @property
    def branch(self) -> str:
        return self.folder.name.removeprefix("_").removesuffix("_to_push")

    def last_words(self, status: int) -> str:
        log = self.folder / _LOG
        text = log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else ""
        return text.splitlines()[-1].removeprefix("error: ") if text else f"exit status {status}"

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class CheckpointPush(CheckpointPublisher):
    """
    Pushes every saved checkpoint to the branch `checkpoint-N`: as an encoder that `AutoModel` loads, and in
    `pretraining/` with its projector, which `continue_from` starts from. Uses `output_dir` and the arguments `hub_*`.

    A separate process on the CPU exports and uploads one checkpoint after the other. Training does not wait for it and
    does not stop when it fails: a failed upload is retried after the next save, and at the end. Where saves are more
    frequent than uploads can follow, only the newest one waits, unless all are wanted. An upload continues after the
    training is stopped; what has not arrived when the training is resumed is pushed then. Only the first rank pushes.
    """

    def __init__(self, args: LeJEPATrainingArguments) -> None:
        self._args = args
        self._all = args.hub_always_push or args.hub_strategy == "all_checkpoints"
        self._run = RunFolder(args.output_dir or "")
        # First what a killed run has not uploaded.
        found = self._run.waiting_pushes() if args.process_index == 0 else []
        self._waiting = [_Upload(path) for path in found]
        self._failed: list[_Upload] = []
        self._running: tuple[_Upload, subprocess.Popen] | None = None

    def on_log(self, *args: object, **kwargs: object) -> None:
        """Check the running upload, and start the next one; when training begins, what an earlier process has left."""
        self._advance()

    on_train_begin = on_log

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Queue the new checkpoint."""
        if not state.is_world_process_zero:
            return
        self._advance()
        kept = self._failed + self._waiting if self._all else self._failed[-1:]
        for upload in self._failed + self._waiting:
            if upload not in kept:
                logger.warning(
                    f"{upload.branch} is not pushed, since newer ones are; `hub_strategy: all_checkpoints` pushes all."
                )
                upload.forget()
        self._failed, self._waiting = [], kept
        checkpoint = self._run.checkpoint(state.global_step)
        try:
            self._waiting.append(_Upload(_keep(checkpoint, self._run.waiting_push(checkpoint))))
        except OSError as error:  # no room for copies, where there are no links
            logger.warning(f"{checkpoint.name} is not pushed: {error}")
        self._advance()

    def finish(self) -> None:
        """Wait for the uploads, and retry once those that failed."""
        self._drain()
        self._waiting, self._failed = self._failed, []
        self._drain()
        for upload in self._failed:
            upload.forget()

    def _drain(self) -> None:
        self._advance()
        while self._running is not None:
            upload, process = self._running
            logger.info(f"Waiting for {upload.branch} to be pushed.")
            process.wait()
            self._advance()

    def _advance(self) -> None:
        """Look after the running upload; start the next one when it has ended."""
        if self._running is not None:
            upload, process = self._running
            status = process.poll()
            if status is None:
                return
            self._running = None
            if status == 0:
                logger.info(f"{upload.branch} is pushed to {self._args.hub_model_id}.")
                upload.forget()
            else:
                logger.warning(f"{upload.branch} could not be pushed: {upload.last_words(status)}")
                self._failed.append(upload)
        while self._waiting and self._running is None:
            upload = self._waiting.pop(0)
            try:
                self._running = upload, self._start(upload)
            except OSError as error:
                logger.warning(f"{upload.branch} could not be pushed: {error}")
                self._failed.append(upload)

    def _start(self, upload: _Upload) -> subprocess.Popen:
        args = self._args
        # One core and no GPU: the others are for training.
        settings = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment = os.environ | settings
        if args.hub_token is not None:
            environment["HF_TOKEN"] = args.hub_token  # not as an argument, which every user of the machine can read
        # `push_to_hub` without `hub_model_id` is refused.
        target = [str(args.hub_model_id), upload.branch, json.dumps(args.hub_private_repo)]
        command = [sys.executable, "-m", __name__, str(upload.folder), *target]
        with (upload.folder / _LOG).open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )


def prepare_repository(args: LeJEPATrainingArguments) -> None:
    """Create the repository of `hub_model_id` before any long work; ValueError if it cannot be created or written."""
    try:
        Target(str(args.hub_model_id), args.hub_private_repo, args.hub_revision, args.hub_token).prepare()
    except OSError as error:
        raise ValueError(f"`push_to_hub`: {error}") from error


def _keep(checkpoint: Path, folder: Path) -> Path:
    """Second names for a checkpoint's files, which need no room and remain when newer checkpoints replace it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in {path for pattern in _READ for path in checkpoint.glob(pattern)}:
        target = folder / path.relative_to(checkpoint)
        target.parent.mkdir(exist_ok=True)
        _link(path, target)
    return folder


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # not every file system has links
        shutil.copy2(path, target)


def _exported(checkpoint: Path) -> Path:
    """The encoder, and the complete model in its `pretraining/`; links where the checkpoint is not in shards."""
    encoder = export_encoder(checkpoint, RunFolder(checkpoint).encoder)
    pretraining = RunFolder(encoder).pretraining
    shutil.rmtree(pretraining, ignore_errors=True)  # left by an upload that was killed
    pretraining.mkdir()
    if not any(checkpoint.glob("model*.safetensors")):  # FSDP's
        read_trained_model(checkpoint).save_pretrained(pretraining)
    for path in [*checkpoint.glob("*.json"), *checkpoint.glob("model*.safetensors")]:
        if not (pretraining / path.name).exists():
            _link(path, pretraining / path.name)
    return encoder


def _export_and_push(folder: str, repo_id: str, branch: str, private: str) -> None:
    try:
        push_run(_exported(Path(folder)), repo_id, json.loads(private), branch)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _export_and_push(*sys.argv[1:])
