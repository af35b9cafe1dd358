import pytest

# `datasets` is imported where it is needed: tests of photometric run on machines without it.


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def parquet(tmp_path):
    from pictures import table

    table(range(4)).to_parquet(tmp_path / "train-0.parquet")
    table(range(4, 7)).to_parquet(tmp_path / "validation-0.parquet")
    return str(tmp_path / "*.parquet")
