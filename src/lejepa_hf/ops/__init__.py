"""Kernels of SIGReg: reference, eager, Triton, and the choice among them. Imports nothing of this package."""
