"""What the labels of a dataset are, for those monitors that use them."""


def count_classes(dataset, label_column: str) -> int | None:
    """
    Args:
        dataset: Of `datasets`, map-style or a stream.
        label_column (`str`): One of its columns.

    Returns:
        `int`: Number of classes, None where labels are no class numbers or a stream does not say how many there are.
    """
    features = getattr(dataset, "features", None) or {}
    feature = features.get(label_column)
    names = getattr(feature, "names", None)
    if names:
        return len(names)
    if hasattr(dataset, "__len__") and str(getattr(feature, "dtype", None)).startswith(("int", "uint")):
        return max(2, 1 + max((label for label in dataset[label_column] if label is not None), default=0))
    return None
