"""Files to volumes and back: strict readers, one atomic writer."""
