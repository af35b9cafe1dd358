"""Classification from a few labelled images a class."""

import numpy as np

from .embedding_extraction import LabelledEmbeddings


def few_shot(
    train: LabelledEmbeddings,
    test: LabelledEmbeddings,
    shots: tuple[int, ...] = (1, 5, 10),
    num_draws: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """
    Logistic regression on standardised embeddings of a few random images a class, over several draws.

    Args:
        train ([`LabelledEmbeddings`]): Where the images are drawn from.
        test ([`LabelledEmbeddings`]): Measures every draw.
        shots (`tuple[int, ...]`, *optional*, defaults to `(1, 5, 10)`): Images a class.
        num_draws (`int`, *optional*, defaults to 20): Independent draws.
        seed (`int`, *optional*, defaults to 0): Of the draws: the same images for every encoder.

    Returns:
        `dict[str, float]`: For each k, `eval_<k>shot_top1` (mean over draws) and `eval_<k>shot_top1_std`, in [0, 1].

    Raises:
        ValueError: If a class has fewer images than shots; the message says which.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    embeddings, labels = train.embeddings.numpy(), train.labels.numpy()
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < max(shots):
        short = classes[counts < max(shots)].tolist()
        raise ValueError(f"`shots` {max(shots)} is more than the images of class {short}: lower it.")
    members = [np.flatnonzero(labels == label) for label in classes]
    results = {}
    for k in shots:
        accuracies = []
        for draw in range(num_draws):
            rng = np.random.default_rng([seed, k, draw])
            rows = np.concatenate([rng.choice(rows_of_class, k, replace=False) for rows_of_class in members])
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            classifier.fit(embeddings[rows], labels[rows])
            accuracies.append(classifier.score(test.embeddings.numpy(), test.labels.numpy()))
        results[f"eval_{k}shot_top1"] = float(np.mean(accuracies))
        results[f"eval_{k}shot_top1_std"] = float(np.std(accuracies))
    return results
