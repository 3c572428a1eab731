"""Answers of the generating routes: whole bodies, and frames of streams."""
