"""The parts of a GPU that torch drives by streams and graphs, whoever made it.

`kind` is torch's word for such devices: "cuda" (also that of HIP builds) or "xpu".
"""
