"""The network: backbone, pooling, projector, token dropping, batch statistics. May import `losses`, `system`."""
