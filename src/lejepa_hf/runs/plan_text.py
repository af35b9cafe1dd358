"""A plan as text for the terminal."""

from .plan import Plan


def format_plan(plan: Plan) -> str:
    """The plan as text; its last line says whether it fits, and whether training will wait for data."""
    epochs = f", {plan.epochs:.1f} passes over {plan.images:,} images" if plan.images else ""
    views = " + ".join(f"{view.number} x {view.size} px ({view.tokens} tokens each)" for view in plan.views)
    room = f" of {_size(plan.device_bytes)}" if plan.device_bytes else ""
    measured = plan.measured
    how = "measured in a dry run"
    if plan.is_estimated:
        how = f"estimated from {measured.batch} images per step" if measured.batch else "estimated"
    counted = (
        f"{_size(plan.state_bytes)} weights, gradients and AdamW, {_size(plan.activation_bytes)} activations, "
        f"{_size(plan.view_bytes)} views"
    )
    process = f"{_size(measured.process_bytes)} per process"
    if measured.worker_bytes:
        process += f", {_size(measured.worker_bytes)} each of its {plan.workers} workers"
    allocated = f", {_size(measured.allocated_bytes)} of it allocated at once" if measured.allocated_bytes else ""
    on_device = f"{_size(measured.used_bytes)}{room}{allocated}, {how}"
    epoch = _duration(plan.seconds_per_epoch) if plan.seconds_per_epoch else "unknown"
    speed = f"{plan.images_per_second:,.3g} images/s"
    waiting = f", {measured.data_wait_fraction:.0%} of the time waiting for views" if measured.batch else ""
    rows = [
        ("images", f"{plan.source}: {f'{plan.images:,}' if plan.images else 'a stream of unknown length'}"),
        ("training", f"{plan.steps:,} steps of {plan.global_batch} images, {plan.processes} process(es){epochs}"),
        ("views per image", f"{views}: {plan.tokens_per_image:,} tokens"),
        ("parameters", f"encoder {plan.encoder_parameters:,}, projector {plan.projector_parameters:,}"),
        ("operations", f"{plan.flops_per_image / 1e9:,.1f} GFLOP per image, forward and backward"),
        ("counted memory", counted),
        (f"memory on the {plan.device}", on_device),
        ("memory of the host", process),
        ("speed", f"{speed}{waiting}, {how}"),
        ("time per epoch", epoch),
        ("whole training", _duration(plan.seconds)),
    ]
    return "\n".join([*(f"{name:<20}{value}" for name, value in rows), _verdict(plan)])


def _verdict(plan: Plan) -> str:
    wait = plan.measured.data_wait_fraction
    if not plan.measured.fits:
        return (
            "It does not fit: lower `per_device_train_batch_size` (with `gradient_accumulation_steps` and "
            "`exact_accumulation` the loss stays that of the large batch), or set `activation_checkpointing`."
        )
    if not plan.measured.batch:
        return "There was no dry run: the speed is estimated from the operations, without cutting views."
    if plan.workers == 0:
        return f"Views are cut between steps, {wait:.0%} of the time: set `dataloader_num_workers` if cores are idle."
    if wait <= 0.1:
        return "The data keep up."
    if plan.device == "cpu":
        return "Training and cutting views share the CPU: fewer or smaller views, or an accelerator, speed it up."
    return (
        f"The {plan.device} will wait for data {wait:.0%} of the time: it needs {plan.workers / (1 - wait):.0f} "
        f"workers, not {plan.workers}. More `dataloader_num_workers` and cores, smaller images, or fewer views."
    )


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.0f} min" if seconds > 120 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
