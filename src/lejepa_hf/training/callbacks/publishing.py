"""CheckpointPublisher: what tells the Trainer that somebody pushes its checkpoints."""

from transformers import TrainerCallback


class CheckpointPublisher(TrainerCallback):
    """
    Base of callbacks that push saved checkpoints to the Hub. The Trainer itself pushes nothing: with `push_to_hub` it
    needs one of these among its `callbacks`.
    """
