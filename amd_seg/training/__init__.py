"""Training: frame pairs, objectives, the one loop, and what a run needs to go on."""
