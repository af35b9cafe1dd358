"""
What a step and a long run need: checkpoints, accumulation, averaged weights, preemption.

May import `training_args`, `modeling_lejepa`, `evaluation` and below; never `hub`.
"""
