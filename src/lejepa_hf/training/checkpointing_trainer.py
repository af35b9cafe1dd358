"""CheckpointingTrainer: a Trainer whose checkpoints can be trusted, on whatever it runs."""

import shutil
from pathlib import Path

from safetensors import SafetensorError
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from ..system.run_folder import RunFolder
from .checkpoints import CheckpointNotWritten, complete_checkpoints, is_complete

# Not `checkpoint-...`, which would be taken for one; the underscore keeps it from being pushed to the Hub.
_ASIDE = "_checkpoint_being_written"


class CheckpointingTrainer(Trainer):
    """
    What differs from the base class: a checkpoint is written aside and renamed when it is complete, on disk and on all
    ranks; one that does not fit the model is an error; nothing is pickled that could hold a token; FSDP's shards are
    saved as such and exported whole; a changed learning rate or weight decay is obeyed on resume.

    Callbacks with `save_state(folder)` and `load_state(folder)` are asked for what they need to go on, on every rank.
    """

    _aside: Path | None = None

    # Save

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._aside is None else str(self._aside)

    def _save_checkpoint(self, model, trial) -> None:
        run, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        aside = run / _ASIDE
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._aside = aside
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                if not self.args.save_only_model and not is_complete(aside / name):
                    raise CheckpointNotWritten(f"{name} misses files after it was written.")
                RunFolder(run).add_checkpoint(aside / name)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            if not _is_about_the_disk(error):
                raise
            raise CheckpointNotWritten(_explain(error, run, name)) from error
        finally:
            self._aside = None
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
            rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)
        self.accelerator.wait_for_everyone()

    def _save_rng_state(self, output_dir: str) -> None:
        # The last that every rank does for a checkpoint; the base class makes the folder.
        super()._save_rng_state(output_dir)
        for callback in self._stateful_callbacks():
            callback.save_state(Path(output_dir))
        if self.state.best_global_step:  # the base class looked for it where the checkpoint is being written
            best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
            here = self.state.best_global_step == self.state.global_step
            self.state.best_model_checkpoint = str(best) if here or best.is_dir() else None
        # The first rank's state comes next and makes the checkpoint a complete one: no rank may be missing in it.
        self.accelerator.wait_for_everyone()

    def _stateful_callbacks(self) -> list:
        return [callback for callback in self.callback_handler.callbacks if hasattr(callback, "save_state")]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        The whole model in one folder, also where FSDP keeps it in shards: there the base class writes nothing.

        Args:
            output_dir (`str`, *optional*): Folder; that of the run if missing.
        """
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        kind = str(plugin.state_dict_type) if plugin is not None else "FULL_STATE_DICT"
        if "FULL_STATE_DICT" in kind:
            super().save_model(output_dir, _internal_call)
        elif _internal_call:  # a checkpoint: the weights come as shards, with the optimizer's
            if self.args.should_save:
                self.accelerator.unwrap_model(self.model).config.save_pretrained(output_dir)
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(output_dir)
        else:
            plugin.set_state_dict_type("FULL_STATE_DICT")
            try:
                super().save_model(output_dir, _internal_call)
            finally:
                plugin.set_state_dict_type("SHARDED_STATE_DICT")

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        # The base class adds a pickle of the arguments, a Hub token among them. Nothing reads it; the recipe is kept.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    # Load

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # The base class restores the old learning rate and weight decay with the states, whatever was asked for now.
        asked = [group["weight_decay"] for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not isinstance(self.lr_scheduler, LambdaLR):
            return
        schedule = self.lr_scheduler
        for group, weight_decay in zip(self.optimizer.param_groups, asked, strict=True):
            group["weight_decay"] = weight_decay
        if set(schedule.base_lrs) != {self.args.learning_rate}:
            schedule.base_lrs = [self.args.learning_rate] * len(schedule.base_lrs)
            for group, factor in zip(self.optimizer.param_groups, schedule.lr_lambdas, strict=True):
                group["initial_lr"] = self.args.learning_rate
                group["lr"] = self.args.learning_rate * factor(schedule.last_epoch)
            schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]  # what is logged

    def _load_rng_state(self, checkpoint: str | None) -> None:
        # The last thing the base class takes from a checkpoint, when model and optimizer are in place.
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self._load_callbacks(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_callbacks(self.state.best_model_checkpoint)

    def _load_callbacks(self, checkpoint: str) -> None:
        for callback in self._stateful_callbacks():
            callback.load_state(Path(checkpoint))

    def _issue_warnings_after_load(self, load_result) -> None:
        # The base class logs and trains on from random weights.
        if load_result.missing_keys or load_result.unexpected_keys:
            raise RuntimeError(
                f"The checkpoint does not fit the model; missing: {load_result.missing_keys}, unexpected: "
                f"{load_result.unexpected_keys}. Resume with the recipe it was made with."
            )


def _is_about_the_disk(error: Exception) -> bool:
    """PyTorch reports a failed write as a RuntimeError of its own."""
    words = ("PytorchStreamWriter", "file write failed", "unexpected pos")
    return isinstance(error, OSError | SafetensorError) or any(word in str(error) for word in words)


def _explain(error: Exception, run: Path, name: str) -> str:
    good = complete_checkpoints(run)
    kept = f"the last complete one is {good[0]}" if good else "there is no earlier one"
    reason = str(error).strip().splitlines()[0]
    return (
        f"{name} could not be written ({reason}); {shutil.disk_usage(run).free / 2**20:,.0f} MiB are free in "
        f"{str(run)!r}, {kept}. Make room, then continue with `--resume`."
    )
