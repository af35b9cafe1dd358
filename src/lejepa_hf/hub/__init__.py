"""
An encoder published: export, ONNX, push, card, report, pictures, demo.

May import `trainer`, `evaluation`, `training` and below.
"""
