"""What is set on workers: pools, limits, queues, service; and what Umbel looks after there later."""
