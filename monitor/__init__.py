"""The engine: Celery's events in, state, history and control out. No HTTP, no templates."""
