"""One command a paper: what it claims beside what was measured here."""
