"""
An encoder published: export, ONNX, push, card, report, pictures, demo.

May import `evaluation`, `training` and below.
"""
