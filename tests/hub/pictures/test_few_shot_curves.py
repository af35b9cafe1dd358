from picture_checks import assert_is_a_picture

from lejepa_hf.hub.pictures.few_shot_curves import draw_few_shot


def test_few_shot_curves(tmp_path):
    def row(best: float) -> dict[str, float]:
        values = {f"eval_{k}shot_top1": best - 1 / (2 + number) for number, k in enumerate((1, 5, 10, "all"))}
        return {"eval_knn_top1": 0.5} | values | {f"{name}_ci95": 0.03 for name in values}

    path = draw_few_shot(tmp_path, {"encoder": row(1.0), "untrained": row(0.8), "pixels": row(0.7)})
    assert_is_a_picture(path, tmp_path, "few_shot.png")
    first = path.read_bytes()
    assert draw_few_shot(tmp_path, {"encoder": row(0.9)}).read_bytes() != first
    assert draw_few_shot(tmp_path, {"encoder": {"eval_knn_top1": 0.5}}) is None
    assert draw_few_shot(tmp_path, {}) is None
