"""qk-restore in Python: the operators of libqk_restore_ops.so, a snapshot of W_Q and W_K that can be put back, and (qk_restore.hf)
a callback that does both, and measures recall, inside transformers.Trainer.

    snapshot = qk_restore.Snapshot(model)      # before fine-tuning
    ...
    snapshot.restore("procrustes")             # after it, in place

The arithmetic is the trainer's own (C++ and CUDA), loaded through torch.ops.load_library; there is no second implementation here.
"""

from ._load import load_all as _load_all

_load_all()

from .operators import *  # noqa: E402, F403 - they need the libraries
from .operators import __all__ as _operators  # noqa: E402
from .layers import describe_layers  # noqa: E402
from .probe import RecallProbe  # noqa: E402
from .snapshot import Snapshot  # noqa: E402

__version__ = "0.1.0"
__all__ = ["RecallProbe", "Snapshot", "describe_layers", *_operators]
