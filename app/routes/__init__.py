"""Pages: parse, authorise, call one service, render."""
