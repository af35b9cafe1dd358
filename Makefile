.PHONY: quality test test-all settings pictures docs benchmark

quality:
	ruff check .
	ruff format --check .
	mypy

test:
	pytest -n auto

test-all: test
	pytest -n auto --dist=worksteal -m "slow or not slow" --backbone-table docs/backbones.md tests/test_backbone_matrix.py
	pytest -n auto -m slow --ignore=tests/test_backbone_matrix.py

settings:
	python tests/settings_page.py

pictures:
	python tests/page_pictures.py $(PHOTOGRAPHS)

docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

benchmark:
	python benchmarks/benchmark_trainer.py
	python benchmarks/benchmark_sigreg.py
	python benchmarks/benchmark_training.py
	python benchmarks/benchmark_plan.py
	OMP_NUM_THREADS=1 python benchmarks/benchmark_long_run.py
