"""Attention over flat KV slots: lists of blocks in use for decodes, rectangles for prompts."""
