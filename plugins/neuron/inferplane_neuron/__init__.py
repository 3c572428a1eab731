"""Inferplane plugin: AWS Trainium and Inferentia."""
