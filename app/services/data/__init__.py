"""Data in and out: imports, exports and the formats of the field."""
