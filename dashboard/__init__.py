"""The face: settings, URLs, pages, sockets and controls. It holds no cluster state."""
