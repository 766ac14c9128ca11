"""Problem sets as files: which there are, where they come from, and whether a copy is right."""
