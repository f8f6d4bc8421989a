"""Running tasks: what one was sent with, where it goes, sending it, and whether it arrived."""
