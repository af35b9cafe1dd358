"""
How good an encoder is: embeddings, protocols, metrics, intervals, statistics, maps.

May import `model`, `data`, `losses`, `system`.
"""
