from lejepa_hf.evaluation.table import format_table


def test_table():
    table = format_table(
        {
            "encoder": {"eval_knn_top1": 0.98765, "eval_1shot_top1": 0.5, "eval_1shot_top1_ci95": 0.0123},
            "pixels": {"eval_knn_top1": 1.0, "eval_1shot_top1": 0.25, "eval_1shot_top1_ci95": 0.1},
        }
    )
    assert table.splitlines() == [
        "| frozen, held out, in % | encoder    | pixels      |",
        "| ---------------------- | ---------- | ----------- |",
        "| knn top1               | 98.8       | 100.0       |",
        "| 1shot top1             | 50.0 ± 1.2 | 25.0 ± 10.0 |",
    ]
