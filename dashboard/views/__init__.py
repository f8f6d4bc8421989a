"""One function a page, by resource."""
