"""Launchers: the catalogue's signatures over the kernels in `inferplane_triton.device`."""
