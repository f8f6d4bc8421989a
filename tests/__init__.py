"""Tests: one file per module or page; names are sentences."""
