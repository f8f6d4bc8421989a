"""What ends tasks: revokes and those that stand, by id and by stamp; terminate, abort, and steps."""
