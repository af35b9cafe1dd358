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
	OMP_NUM_THREADS=1 python benchmarks/benchmark_long_run.py
