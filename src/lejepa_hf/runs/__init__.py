"""
From a recipe to a finished run: recipes, pretraining, finishing, planning, continuing, selecting.

May import every room except `cli`.
"""
