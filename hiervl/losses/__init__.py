"""Losses under the names that the logs show."""
