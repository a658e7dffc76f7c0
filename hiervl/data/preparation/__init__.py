"""What the scripts in ``datasets/`` share."""
