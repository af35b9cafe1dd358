import pytest

from lejepa_hf.hub.report_words import name_of_metric


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("eval_knn10_top1", "k-NN, k = 10"),
        ("eval_knn_top1", "k-NN, k = 20"),
        ("eval_knn_auroc", "k-NN, k = 20, AUROC"),
        ("eval_linear_top1", "linear probe"),
        ("eval_linear_top5", "linear probe, right among 5 guesses"),
        ("eval_linear_mean_per_class", "linear probe, mean of classes"),
        ("eval_logistic_macro_f1", "logistic regression, macro F1"),
        ("eval_1shot_top1", "1 labelled image per class"),
        ("eval_10shot_top5", "10 labelled images per class, right among 5 guesses"),
        ("eval_allshot_top1", "all labelled images"),
        ("eval_0.5%shot_top1", "0.5 % of the labels"),
        ("eval_retrieval_map", "retrieval, mean average precision"),
        ("eval_retrieval_recall5", "retrieval, right among the first 5"),
        ("eval_linear_map", "linear probe, mean average precision"),
        ("eval_ridge_mae", "ridge regression, mean absolute error in the label's unit"),
        ("eval_patient_age_ridge_r2", "patient age: ridge regression, R²"),
        ("eval_sex_knn200_mean_per_class", "sex: k-NN, k = 200, mean of classes"),
        ("eval_segmentation_dinov2_miou", "segmentation of DINOv2, mean IoU"),
        ("eval_segmentation_accuracy", "segmentation, pixels"),
        ("eval_own_thing", "own thing"),
    ],
)
def test_names(metric, name):
    assert name_of_metric(metric) == name
