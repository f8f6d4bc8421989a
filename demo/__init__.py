"""A small, believable shop on Celery, with all it needs to run: for ``umbel demo`` and the live tests."""
