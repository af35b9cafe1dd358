"""The list of private methods of transformers' Trainer on which this package depends."""

# Overridden method -> its parameters, and the method of the base class that calls it.
OVERRIDDEN = {
    # A checkpoint is written to another folder and renamed when all ranks are done; `on_save` comes too late.
    "_save_checkpoint": (("self", "model", "trial"), "_maybe_log_save_evaluate"),
    # Weights that do not fit are an error; the base class logs a warning.
    "_issue_warnings_after_load": (("self", "load_result"), "_load_from_checkpoint"),
    # The rates of the optimizer are known before a checkpoint replaces them, whoever made it.
    "_load_optimizer_and_scheduler": (("self", "checkpoint"), "_prepare_for_training"),
    # The best checkpoint is read only if it can be, and cannot run code.
    "_load_best_model": (("self",), "_finalize_training"),
    # Views get their photometric part on the device, from numbers that stay on the host.
    "_prepare_inputs": (("self", "inputs"), "training_step"),
    # The measured norm is checked before the optimizer uses the gradient; callbacks do not receive it.
    "_get_grad_norm": (("self", "model", "grad_norm"), "_run_epoch"),
}

CALLED = {
    "_load_from_checkpoint": "a finished run is loaded without a further step",
}

# Method of the base class -> calls in it whose order matters.
ORDER = {
    "_save_checkpoint": (
        *("_get_output_dir", "save_model", "_save_optimizer_and_scheduler", "_save_scaler", "_save_rng_state"),
        *("save_to_json", "rotate_checkpoints"),
    ),
    "_maybe_log_save_evaluate": ("log", "_evaluate", "_determine_best_metric", "_save_checkpoint", "on_save"),
    "_prepare_for_training": ("create_optimizer", "create_scheduler", "_load_optimizer_and_scheduler"),
    "_inner_training_loop": ("_prepare_for_training", "on_train_begin", "on_epoch_begin", "_run_epoch"),
    "_finalize_training": ("log", "_load_best_model", "on_train_end"),
    "training_step": ("_prepare_inputs", "compute_loss", "backward"),
    "_run_epoch": ("_load_rng_state", "get_batch_samples", "training_step", "_get_grad_norm", "step", "on_step_end"),
}
