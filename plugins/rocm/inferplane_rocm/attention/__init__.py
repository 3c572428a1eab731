"""Attention through AMD's own package, where it is installed and asked for."""
