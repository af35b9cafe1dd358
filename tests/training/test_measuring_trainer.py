import time

from monitored_run import monitored, rows


def test_an_evaluation_does_not_slow_the_speed_of_training(tmp_path):
    trainer = monitored(tmp_path, monitors=[], label_column=None, max_steps=3)
    trainer.model.register_forward_pre_hook(lambda model, _: None if model.training else time.sleep(0.5))
    trainer.train()
    (evaluation, *_) = rows(trainer, "eval_loss")
    assert evaluation["step"] == 2 and evaluation["eval_runtime"] > 1.5  # three batches
    after = next(row for row in rows(trainer) if row["step"] == 3)
    assert after["images_per_second"] > 8 / 1.5  # the eight images of the step, without the evaluation before it


def test_resuming_from_true_is_from_the_newest_checkpoint(tmp_path):
    monitored(tmp_path, eval_strategy="no", max_steps=3).train()
    again = monitored(tmp_path, eval_strategy="no", max_steps=4)
    again.train(resume_from_checkpoint=True)
    assert [row["step"] for row in rows(again)] == [1, 2, 3, 4]
