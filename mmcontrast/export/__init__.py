"""Models in the formats of other libraries, checked by those libraries, and on the Hub."""
