"""
How large should the batch be?

    python benchmarks/study_batch.py

All settings see the same number of images, with the same learning rate. Claim of arXiv 2511.08544: batches of 128 to
1024 differ little (72.2, 74.2, 74.7, 74.1 with a ViT-L on ImageNet-1k).
"""

from study_runs import DIGITS, draw_panels, print_table, run_study, write_rows

DEFAULT = 128
SETTINGS = {
    str(batch): {"per_device_train_batch_size": batch, "max_steps": DIGITS.steps * DEFAULT // batch}
    for batch in (32, 64, 128, 256, 512)
}
SETTINGS[str(DEFAULT)] = {}


def main() -> None:
    rows = run_study(SETTINGS)
    write_rows("batch", rows)
    print_table(rows)
    draw_panels("batch", rows, {"Images a batch": SETTINGS})


if __name__ == "__main__":
    main()
