"""What files a model has and what they say about themselves; knows nothing of torch.

Only headers are read, within bounds, and every size is checked against its file. Nothing is ever
imported or unpickled from a model's folder.
"""

from inferplane.checkpoint.files import Checkpoint, TensorInfo
from inferplane.checkpoint.folder import open_checkpoint

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]
