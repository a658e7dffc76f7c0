"""What is done with a trained network: prediction, results in files, zero-shot pictures, export."""
