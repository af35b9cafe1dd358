"""Names of metrics as people say them, for pages."""

import re

_PROTOCOLS = {
    "linear": "linear probe",
    "linear_dinov2": "linear probe of DINOv2",
    "attentive": "attentive probe",
    "knn": "k-NN, k = 20",
    "logistic": "logistic regression",
    "ridge": "ridge regression",
    "allshot": "all labelled images",
    "finetune": "fine-tuned",
    "finetune_long": "fine-tuned, long",
    "retrieval": "retrieval",
    "segmentation": "segmentation",
    "segmentation_dinov2": "segmentation of DINOv2",
}
_FIGURES = {
    "top1": "",
    "top5": "right among 5 guesses",
    "mean_per_class": "mean of classes",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "map": "mean average precision",
    "r2": "R²",
    "mae": "mean absolute error in the label's unit",
    "miou": "mean IoU",
    "accuracy": "pixels",
}
_KNN = re.compile(r"knn(\d+)")
_SHOTS = re.compile(r"(\d+)shot")
_SHARE = re.compile(r"([\d.]+)%shot")
_RECALL = re.compile(r"retrieval_recall(\d+)")


def name_of_metric(metric: str) -> str:
    """
    `eval_knn10_top1` -> `k-NN, k = 10`; of one label column of several, `eval_age_ridge_r2` -> `age: ridge regression,
    R²`. A name that is not known gets spaces.
    """
    name = metric.removeprefix("eval_")
    if match := _RECALL.fullmatch(name):
        return f"retrieval, right among the first {match[1]}"
    for figure, meaning in _FIGURES.items():
        if name.endswith(f"_{figure}") and (protocol := _name_after_column(name.removesuffix(f"_{figure}"))):
            return f"{protocol}, {meaning}" if meaning else protocol
    return name.replace("_", " ")


def _name_after_column(name: str) -> str | None:
    words = name.split("_")
    for number in range(len(words)):
        if protocol := _name_of_protocol("_".join(words[number:])):
            return f"{' '.join(words[:number])}: {protocol}" if number else protocol
    return None


def _name_of_protocol(name: str) -> str | None:
    if match := _KNN.fullmatch(name):
        return f"k-NN, k = {match[1]}"
    if match := _SHOTS.fullmatch(name):
        return f"{match[1]} labelled {'image' if match[1] == '1' else 'images'} per class"
    if match := _SHARE.fullmatch(name):
        return f"{match[1]} % of the labels"
    return _PROTOCOLS.get(name)
