"""What watches a run: monitors, online probe, held-out evaluation, health, metrics file."""
