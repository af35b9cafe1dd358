from dataclasses import replace

import pytest
from small_recipe import SMALL, small_recipe

from lejepa_hf.cli import main
from lejepa_hf.runs.fitting import Fit, StepSettings, candidates, choose, fit, format_fit
from lejepa_hf.runs.measurement import Measurement
from lejepa_hf.runs.plan import Plan, ViewPlan
from lejepa_hf.runs.recipes import parse_recipe

MIB, STATES = 1 << 20, 100 << 20
PLAN = Plan(
    source="digits", images=1347, steps=20, batch=64, global_batch=64, processes=1,
    views=[ViewPlan("global", 2, 16, 17)], encoder_parameters=1000, projector_parameters=200, flops_per_image=2e9,
    state_bytes=STATES, activation_bytes=0, view_bytes=0, device="cpu", device_bytes=None,
    workers=0, image_side=8, flops_after=None, fitting=None,
    measured=Measurement(64, 100.0, 0.0, 0, 0, 0, 0, fits=True),
)  # fmt: skip
BATCH = ["--per_device_train_batch_size", "64"]


@pytest.fixture
def vit_recipe(tmp_path, tiny_vit):
    """Returns a small recipe with arguments."""
    return lambda *arguments: small_recipe(tmp_path, tiny_vit, *arguments)


def machine(mib: int, device: str = "cpu", gain: float = 1.2, counted: bool = False):
    """
    Measures settings on a device with so many MiB for activations: one for each image, an eighth of it if they are
    recomputed. Compiled, it is `gain` times as fast. Where nothing is `counted`, only dry runs show what fits.
    """

    def attempt(settings: StepSettings) -> Plan:
        activations = settings.batch * MIB // (8 if settings.recomputes else 1)
        speed = 100.0 * (gain if settings.compiles else 1)
        measured = replace(
            PLAN.measured, batch=settings.batch, images_per_second=speed, used_bytes=STATES + activations,
            fits=activations < mib * MIB,
        )  # fmt: skip
        return replace(
            PLAN, batch=settings.batch, activation_bytes=activations if counted else 0, device=device,
            device_bytes=STATES + mib * MIB, measured=measured,
        )  # fmt: skip

    return attempt


def choice(recipe, mib, **kwargs):
    chosen = choose(candidates(recipe, can_recompute=True), machine(mib, **kwargs)).chosen
    return None if chosen is None else (chosen.batch, chosen.accumulation, chosen.is_exact, chosen.recomputes)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    ("mib", "expected"),
    [
        (65, (64, 1, False, False)),
        (64, (64, 1, False, True)),  # one more forward pass
        (8, (4, 16, True, False)),
        (3, (16, 4, True, True)),  # 2 MiB recomputed
        (1, (4, 16, True, True)),
        (0, None),
    ],
)
def test_the_cheapest_step_that_fits(vit_recipe, mib, expected, counted):
    assert choice(vit_recipe(*BATCH), mib, counted=counted) == expected


@pytest.mark.parametrize(
    ("counted", "expected"),
    [(True, [(64, False), (64, True), (16, True)]), (False, [(64, False), (32, False), (8, False), (4, False)])],
)
def test_what_is_known_of_larger_batches_saves_dry_runs(vit_recipe, counted, expected):
    """By counting, or by the straight line through two measurements."""
    recipe = vit_recipe(*BATCH)
    tried = choose(candidates(recipe, can_recompute=counted), machine(3, counted=counted)).tried
    assert [(one.batch, one.recomputes) for one, _ in tried] == expected


def test_recomputation_and_exact_accumulation_that_memory_does_not_ask_for_are_left_out(vit_recipe):
    given = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "8", "--exact_accumulation"]
    assert choice(vit_recipe(*given, "--activation_checkpointing"), 100) == (64, 1, False, False)


def test_micro_batches_of_plain_accumulation_keep_their_size(vit_recipe):
    recipe = vit_recipe("--per_device_train_batch_size", "32", "--gradient_accumulation_steps", "2")
    assert choice(recipe, 20) == (32, 2, False, True)
    assert choice(recipe, 2) is None, "half of a micro-batch would have another loss"


def test_what_a_backbone_or_statistic_cannot_do_is_not_tried(vit_recipe):
    recipe = vit_recipe("--per_device_train_batch_size", "24")
    assert [str(one) for one in candidates(recipe, can_recompute=False)] == [
        "24 images", "12 images, 2 micro-batches with one loss", "6 images, 4 micro-batches with one loss",
    ]  # fmt: skip
    assert [str(one) for one in candidates(vit_recipe("--statistic", "vcreg"), can_recompute=True)] == [
        "8 images", "8 images, activations recomputed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("device", "gain", "compiles", "tries"),
    [("cuda", 1.2, True, 2), ("cuda", 1.02, False, 2), ("cuda", 0.9, False, 2), ("cpu", 1.2, False, 1)],
)
def test_a_gpu_compiles_where_that_was_measured_to_pay(vit_recipe, device, gain, compiles, tries):
    found = choose(candidates(vit_recipe(*BATCH), True), machine(100, device, gain))
    assert found.chosen.compiles == compiles and len(found.tried) == tries
    assert found.plan.measured.images_per_second == (100 * gain if compiles else 100)


def test_a_machine_without_a_compiler_trains_without(vit_recipe, caplog):
    eager = machine(100, "cuda")

    def attempt(settings):
        if settings.compiles:
            raise RuntimeError("The dry run failed:\nno C compiler")
        return eager(settings)

    found = choose(candidates(vit_recipe(*BATCH), True), attempt)
    assert not found.chosen.compiles and "its dry run failed: no C compiler" in caplog.text


def test_lines_are_those_of_a_recipe(vit_recipe, tmp_path):
    text = format_fit(choose(candidates(vit_recipe(*BATCH), True), machine(3)))
    assert "64 images, activations recomputed" in text and "measured in a dry run" in text
    recipe = tmp_path / "small.yaml"
    recipe.write_text(recipe.read_text() + text.partition("batch norm sees one micro-batch at a time:\n")[2])
    training = parse_recipe(recipe, SMALL).training
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (16, 4)
    assert training.exact_accumulation and training.recomputes_activations and not training.torch_compile
    nothing = Fit([(StepSettings(4, 1, False, False, False), PLAN)], None)
    assert "Nothing fits: a smaller backbone" in format_fit(nothing)


def test_two_commands_at_once_are_refused(vit_recipe, tmp_path, capsys):
    vit_recipe()
    assert main(["plan", str(tmp_path / "small.yaml"), "--fit", "--measure-normalisation", *SMALL]) == 2
    assert "give one of them" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_is_fitted_by_a_dry_run(vit_recipe, tmp_path):
    vit_recipe()
    recipe = str(tmp_path / "small.yaml")
    arguments = [*SMALL, "--per_device_train_batch_size", "16"]
    found = fit(recipe, arguments, 0.2)
    assert str(found.chosen) == "16 images" and found.plan.measured.batch == 16 and len(found.tried) == 1
