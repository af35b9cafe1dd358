"""CheckpointingTrainer: a Trainer whose checkpoints can be trusted, on one process, DDP and FSDP2."""

import copy
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from ..system.error_text import reason_of
from ..system.run_folder import RunFolder
from .callbacks.stateful import StatefulCallback, StateLoader
from .checkpoints import (
    STATE_FILE,
    CheckpointNotWritten,
    complete_checkpoints,
    damage_of_checkpoint,
    damage_of_weights,
    delete_older,
    resolve_resume,
)
from .resume_settings import read_settings
from .resumed_rates import note_full_rates, own_rates_kept

logger = logging.getLogger("lejepa_hf")

# Not `checkpoint-...`, which would be taken for one; the underscore keeps it from being pushed to the Hub.
_ASIDE = "_checkpoint_being_written"


class CheckpointingTrainer(Trainer):
    """
    Differences from the base class: a checkpoint is written to another folder and renamed when it is complete, on disk
    and on all ranks; a checkpoint that does not fit the model is an error; nothing is pickled that could hold a token;
    FSDP's shards are saved as shards and exported as one file; a changed learning rate or weight decay takes effect on
    resume. The state of each [`StatefulCallback`] is saved and loaded with the checkpoint, on every rank.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - those of Trainer
        super().__init__(**kwargs)
        self._states = StateLoader(self._load_states)
        self.add_callback(self._states)

    @contextmanager
    def _changed_arguments(self, **changes: object) -> Iterator[None]:
        """Replace `args` by a changed copy within this context."""
        before, self.args = self.args, copy.copy(self.args)
        for name, value in changes.items():
            setattr(self.args, name, value)
        try:
            yield
        finally:
            self.args = before

    # Save

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        run, name = Path(str(self.args.output_dir)), f"checkpoint-{self.state.global_step}"
        aside = run / _ASIDE
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            with self._changed_arguments(output_dir=str(aside)):
                super()._save_checkpoint(model, trial)
            self._write_parts(aside / name)
            self._name_best(run, aside / name)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                damage = None if self.args.save_only_model else damage_of_checkpoint(aside / name)
                if damage:
                    raise CheckpointNotWritten(f"{name} is not complete after it was written: {damage}.")
                RunFolder(run).add_checkpoint(aside / name)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            if not _is_about_the_disk(error):
                raise
            raise CheckpointNotWritten(_explain(error, run, name)) from error
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
            kept = {run / name, Path(self.state.best_model_checkpoint or run / name)}
            delete_older(run, self.args.save_total_limit, kept)
        self.accelerator.wait_for_everyone()

    def _write_parts(self, checkpoint: Path) -> None:
        """Write this rank's files, beside those of transformers."""
        checkpoint.mkdir(parents=True, exist_ok=True)  # the first rank may not have done so yet
        for callback in self._stateful_callbacks():
            callback.save_state(checkpoint)

    def _name_best(self, run: Path, written: Path) -> None:
        """Correct the best checkpoint, which the base class looked for in the folder of this one."""
        if not self.state.best_global_step:
            return
        is_this_one = self.state.best_global_step == self.state.global_step
        self.state.best_model_checkpoint = str(run / written.name) if is_this_one else self._find_best(self.state)
        if self.args.should_save:
            self.state.save_to_json(str(written / STATE_FILE))

    def _find_best(self, state: TrainerState) -> str | None:
        """The best checkpoint: in the run folder, which may have moved since, or in that where the run began."""
        known = [] if state.best_model_checkpoint is None else [Path(state.best_model_checkpoint)]
        own = [RunFolder(str(self.args.output_dir)).checkpoint(state.best_global_step or 0)]
        return next((str(path) for path in [*own, *known] if path.is_dir()), None)

    def _stateful_callbacks(self) -> list[StatefulCallback]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, StatefulCallback)]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the complete model in `output_dir` or the run folder; the base class writes nothing under FSDP."""
        folder = output_dir or str(self.args.output_dir)
        # The base class also pickles the arguments, with the Hub token. Nothing reads the pickle.
        with self._changed_arguments(hub_token=None):
            self._save_weights(folder, _internal_call)
        if self.args.should_save:
            (Path(folder) / "training_args.bin").unlink(missing_ok=True)

    def _save_weights(self, folder: str, is_checkpoint: bool) -> None:
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin is None or "FULL_STATE_DICT" in str(plugin.state_dict_type):
            super().save_model(folder, is_checkpoint)
        elif is_checkpoint:  # the weights come as shards, with the optimizer's
            if self.args.should_save:
                self.accelerator.unwrap_model(self.model).config.save_pretrained(folder)
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(folder)
        else:
            plugin.set_state_dict_type("FULL_STATE_DICT")
            try:
                super().save_model(folder, is_checkpoint)
            finally:
                plugin.set_state_dict_type("SHARDED_STATE_DICT")

    # Load

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Like the base class; the optimizer notes its rates as they are before any step."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        assert self.optimizer is not None
        note_full_rates(self.optimizer)
        return scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # Whoever made the optimizer, its rates are known here, before the checkpoint replaces them.
        assert self.optimizer is not None
        before = read_settings(checkpoint).get("free", {}).get("learning_rate") if checkpoint is not None else None
        factor = self.args.learning_rate / before if before else 1.0
        with own_rates_kept(self.optimizer, self.lr_scheduler, factor):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_states(self, checkpoint: str) -> None:
        for callback in self._stateful_callbacks():
            callback.load_state(Path(checkpoint))

    def _checkpoint_to_resume(self, given: str | Path | bool | None) -> str | None:
        if given is None or given is False:
            return None
        run = str(self.args.output_dir)
        found = resolve_resume("auto" if given is True else str(given), run)
        if found is None:
            raise ValueError(f"`resume_from_checkpoint` is {given}, but {run!r} has no checkpoint.")
        return str(found)

    def _load_best_model(self) -> None:
        # A resumed state may name any folder, and a run must not lose its last step because that is damaged.
        best = str(self.state.best_model_checkpoint)
        damage = damage_of_weights(Path(best))
        if damage is None:
            super()._load_best_model()
            self._load_states(best)
        else:
            self.state.best_model_checkpoint = None
            logger.warning(f"The best checkpoint {best!r} cannot be read ({damage}): the last weights are kept.")

    def _load_finished(self, checkpoint: str, state: TrainerState) -> TrainOutput:
        self._load_from_checkpoint(checkpoint)
        self._load_states(checkpoint)
        self.state = state
        state.best_model_checkpoint = self._find_best(state)
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        return TrainOutput(state.global_step, float("nan"), {})

    def _issue_warnings_after_load(self, load_result: _IncompatibleKeys) -> None:
        # The base class only logs this, and would train from random weights.
        if load_result.missing_keys or load_result.unexpected_keys:
            raise RuntimeError(
                f"The checkpoint does not fit the model; missing: {load_result.missing_keys}, unexpected: "
                f"{load_result.unexpected_keys}. Resume with the recipe it was made with."
            )

    def push_to_hub(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused: a model in training is not an encoder that others can load."""
        raise NotImplementedError(
            "`push_to_hub` of the Trainer would publish a model in training: publish the finished run by `lejepa push "
            "RUN REPO` or `lejepa_hf.hub.push.push_run`, and checkpoints by a `CheckpointPush` among the `callbacks`."
        )


def _is_about_the_disk(error: Exception) -> bool:
    """PyTorch reports a failed write as a RuntimeError of its own."""
    words = ("PytorchStreamWriter", "file write failed", "unexpected pos")
    return isinstance(error, OSError | SafetensorError) or any(word in str(error) for word in words)


def _explain(error: Exception, run: Path, name: str) -> str:
    good = complete_checkpoints(run)
    disk = next(path for path in (run, *run.absolute().parents) if path.exists())  # a run's folder may be deleted
    kept = f"the last complete one is {good[0]}" if good else "there is no earlier one"
    return (
        f"{name} could not be written ({reason_of(error)}); {shutil.disk_usage(disk).free / 2**20:,.0f} MiB are free "
        f"in {str(run)!r}, {kept}. Make room, then continue with `--resume`."
    )
