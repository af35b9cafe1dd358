"""The objective: prediction loss, SIGReg and other statistics. May import `ops`, `system`."""
