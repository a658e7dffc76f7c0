"""From files to batches: readers, augmentation, mappers, reproducible streams."""
