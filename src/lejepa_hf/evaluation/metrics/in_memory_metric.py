"""InMemoryMetric: the base of our `evaluate` metrics, which neither needs the network nor writes a file."""

import inspect
import tempfile
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import datasets
import evaluate


class InMemoryMetric(evaluate.Metric, ABC):
    """
    A metric that is called directly. By default `evaluate` writes everything it is given below `HF_HOME`, which may be
    read-only or full when a long run has ended. Several processes (`num_process`) still exchange files.

    `evaluate.load` takes the first class of a file that is not abstract: this one has to be, for subclasses' files.
    """

    # Types in Arrow: numbers for each prediction, one for its reference; a subclass may have others.
    columns: ClassVar[dict] = {
        "predictions": datasets.List(datasets.Value("int64")),
        "references": datasets.Value("int64"),
    }

    def __init__(self, **settings: object) -> None:
        if settings.get("num_process", 1) != 1:
            super().__init__(**settings)
            return
        with tempfile.TemporaryDirectory() as folder:  # the base class makes folders in it, but writes nothing
            super().__init__(**{**settings, "keep_in_memory": True, "cache_dir": folder})

    def _info(self) -> evaluate.MetricInfo:
        about, features = inspect.cleandoc(type(self).__doc__ or ""), datasets.Features(self.columns)
        return evaluate.MetricInfo(about, citation="", inputs_description=about, features=features)

    @abstractmethod
    def _compute(self, *inputs: Any, **settings: Any) -> dict[str, float]:  # noqa: ANN401
        """The results, by name."""
