"""Kernels of SIGReg and of colours and blur, and the choice among them. Imports nothing of this package."""
