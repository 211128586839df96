"""Somebody's Markdown as safe HTML: parsing, formulas, highlighted code, writing direction, and what may come out."""
