"""
What a step and a long run need: checkpoints, accumulation, averaged weights, preemption.

May import `modeling_lejepa`, `configuration_lejepa`, `evaluation` and below; never `hub`.
"""
