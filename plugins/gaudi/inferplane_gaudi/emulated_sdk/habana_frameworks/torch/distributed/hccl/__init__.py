"""Importing it would make torch.distributed know the library; gloo stands in its place."""
