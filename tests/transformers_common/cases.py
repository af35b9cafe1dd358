"""transformers' common tests of models and configs over our two models. `.ci/transformers_common_tests` runs them."""

import copy
import tempfile
import unittest

import torch
from exclusions import EXCLUSIONS
from tiny_backbones import ARCHITECTURES, Architecture
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, LeJEPAModel

_OBJECTIVE = {"projector_dims": [24, 8], "num_slices": 16}


class Subject:
    """What the common tests ask for: a config, its inputs, and the shapes of the outputs."""

    def __init__(self, architecture: Architecture, of_views: bool) -> None:
        self.architecture, self.of_views = architecture, of_views
        self.is_training = of_views  # the encoder returns no loss
        self.has_local_views = True
        # SIGReg needs two images, so pairs of images are counted where the tests take the first of a batch.
        self.batch_size = 2 if of_views else 4
        vars(self).update(architecture.states)
        # A state of the global views and one of the local views.
        self.num_hidden_states_types = 2 if of_views else 1

    def get_config(self) -> LeJEPAConfig:
        return LeJEPAConfig(backbone_config=copy.deepcopy(self.architecture.config), **_OBJECTIVE)

    def prepare_config_and_inputs_for_common(self) -> tuple[LeJEPAConfig, dict]:
        large, small = self.architecture.image_size, self.architecture.local_size
        if not self.of_views:
            return self.get_config(), {"pixel_values": torch.randn(4, 3, large, large)}
        views = {"global_views": torch.randn(4, 1, 3, large, large)}
        if self.has_local_views:
            views["local_views"] = torch.randn(4, 1, 3, small, small)
        return self.get_config(), views


class Case(ModelTesterMixin):
    """One model over one backbone."""

    architecture: Architecture
    test_resize_embeddings = False
    _is_composite = True

    def setUp(self) -> None:
        (model_class,) = self.all_model_classes
        self.model_tester = Subject(self.architecture, model_class is LeJEPAForPreTraining)
        self.has_attentions = self.architecture.attention_length is not None
        # The tests ask the class, but it depends on the backbone of each model.
        before = model_class.supports_gradient_checkpointing
        self.addCleanup(setattr, model_class, "supports_gradient_checkpointing", before)
        model = model_class(self.model_tester.get_config())
        model_class.supports_gradient_checkpointing = model.supports_gradient_checkpointing

    def test_sdpa_can_dispatch_non_composite_models(self) -> None:
        self._is_composite = False  # its part for composite models needs a language model
        super().test_sdpa_can_dispatch_non_composite_models()

    def test_attention_outputs(self) -> None:
        self.model_tester.seq_length = self.architecture.attention_length
        super().test_attention_outputs()

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs: dict | None = None) -> None:
        # It puts a mock into a layer which remembers the arguments of its last pass only: here the local views', that
        # is other rotary positions than those of the global views. tests/test_modeling_lejepa.py has both sizes.
        self.model_tester.has_local_views = False
        super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)

    def test_torch_save_of_the_model(self) -> None:
        """Not one of transformers': its test saves the weights alone."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = self.all_model_classes[0](config).eval()
        with tempfile.TemporaryFile() as file:
            torch.save(model, file)
            file.seek(0)
            loaded = torch.load(file, weights_only=False)
        torch.testing.assert_close(loaded(**inputs)[0], model(**inputs)[0])


class TestExclusions(unittest.TestCase):
    """The list of exclusions itself."""

    def test_they_name_tests_that_exist(self) -> None:
        names = {name for exclusion in EXCLUSIONS for name in exclusion.tests}
        self.assertEqual([name for name in names if not hasattr(ModelTesterMixin, name)], [])


class TestConfig(unittest.TestCase):
    """transformers' `ConfigTester`, one of its checks per test."""

    def setUp(self) -> None:
        self.model_tester = Subject(ARCHITECTURES["vit"], of_views=False)


def _config_check(name: str):
    def check(self: TestConfig) -> None:
        tester = ConfigTester(self, LeJEPAConfig, has_text_modality=False, **_OBJECTIVE)
        getattr(tester, name)()

    return check


for _name in dir(ConfigTester):
    if _name.startswith(("create_and_test_", "check_")):
        setattr(TestConfig, "test_" + _name.removeprefix("create_and_test_"), _config_check(_name))

for _name, _architecture in ARCHITECTURES.items():
    for _class in (LeJEPAModel, LeJEPAForPreTraining):
        _case = f"Test_{_name}_{_class.__name__}"
        _fields = {
            "names": (_name, _class.__name__),
            "architecture": _architecture,
            "all_model_classes": (_class,),
            "__module__": __name__,
        }
        globals()[_case] = type(_case, (Case, unittest.TestCase), _fields)
