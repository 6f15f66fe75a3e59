"""A page in the browser to search pictures with: what it answers (`session`), how it looks (`app`), who gets it."""
