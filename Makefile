.PHONY: quality test benchmark

quality:
	ruff check .
	ruff format --check .

test:
	pytest -n auto

benchmark:
	python benchmarks/benchmark_trainer.py
	python benchmarks/benchmark_sigreg.py
	python benchmarks/benchmark_training.py
	python benchmarks/benchmark_plan.py
