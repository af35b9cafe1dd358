"""CheckpointPublisher: base of callbacks that push checkpoints."""

from transformers import TrainerCallback


class CheckpointPublisher(TrainerCallback):
    """
    Base of callbacks that push saved checkpoints to the Hub. The Trainer itself pushes nothing: with `push_to_hub` it
    requires one of these in its `callbacks`.
    """
