"""What is looked at before a training starts (``check-data``)."""
