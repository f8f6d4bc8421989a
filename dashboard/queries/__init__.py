"""Every read of history, by resource: rows, counts and figures for the pages."""
