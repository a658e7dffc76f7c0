"""Run a training: set-up, presets, trainer, checkpoints, hooks, processes, records."""
