"""Processes, the machine and durable files. Imports nothing of this package."""
