"""Filters and command forms, by resource: what a URL or a POST may say."""
