"""Use a trained network: prediction, result files, zero-shot pictures, export."""
