import pytest

from lejepa_hf.evaluation.protocols.registry import (
    PROTOCOLS,
    check_protocols,
    is_on_embeddings,
    make_protocols,
    protocol_class,
)


def test_names_are_those_of_the_classes():
    assert [protocol_class(name).name for name in PROTOCOLS] == [*PROTOCOLS]


def test_unknown_ones_are_refused():
    check_protocols([*PROTOCOLS])
    with pytest.raises(ValueError, match="svm unknown; known are linear, .*retrieval, fine-tune, segmentation"):
        check_protocols(["knn", "svm"])


def test_what_needs_images_is_for_later():
    check_protocols([name for name in PROTOCOLS if is_on_embeddings(name)], at_the_end_of_training=True)
    with pytest.raises(ValueError, match="`eval_protocols` fine-tune, segmentation: only `lejepa evaluate`, after"):
        check_protocols(["knn", "fine-tune", "segmentation"], at_the_end_of_training=True)


def test_each_protocol_gets_its_own_settings():
    settings = {"shots": (1, "all"), "resolution": 32, "num_epochs": None, "learning_rate": 1e-3}
    knn, few_shot, fine_tune, segmentation = make_protocols(["knn", "few-shot", "fine-tune", "segmentation"], settings)
    assert few_shot.shots == (1, "all") and segmentation.resolution == 32
    assert (fine_tune.learning_rate, fine_tune.num_epochs) == (1e-3, None)
    assert make_protocols([few_shot, "knn"], {}) == [few_shot, knn]


def test_a_setting_that_no_protocol_has():
    with pytest.raises(ValueError, match="`shot` is not a setting of any protocol; there are .*num_epochs.*shots"):
        make_protocols(["knn"], {"shot": 1})
