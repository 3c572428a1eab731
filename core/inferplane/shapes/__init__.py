"""Shape policies and padding for back-ends that need fixed shapes; pure, host-only, torch-free."""

from inferplane.shapes.decode_ladder import DecodeLadder
from inferplane.shapes.padding import last_rows, pad, shape_of
from inferplane.shapes.rectangles import Rectangles
from inferplane.shapes.token_grid import TokenGrid

__all__ = ["DecodeLadder", "Rectangles", "TokenGrid", "last_rows", "pad", "shape_of"]
