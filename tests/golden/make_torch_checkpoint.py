"""Makes torch_checkpoint.pt, a file of torch.save, and torch_checkpoint.npz, the same tensors.

Run with torch==2.13.0: python tests/golden/make_torch_checkpoint.py
"""

from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
DIMS = {"n_mels": 5, "n_audio_ctx": 7, "n_audio_state": 6, "n_audio_head": 3, "n_audio_layer": 1}
DIMS |= {"n_vocab": 11, "n_text_ctx": 13, "n_text_state": 6, "n_text_head": 2, "n_text_layer": 1}


def main() -> None:
    torch.manual_seed(0)
    base = torch.randn(40)
    state = {
        "contiguous": torch.randn(2, 3),
        "half": torch.randn(5, 2).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "double": torch.randn(3).double(),
        "transposed": torch.randn(4, 3).t(),
        "view_with_offset": base[7:19].view(3, 4),
        "every_second": base[1:21:2],
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "scalar": torch.tensor(3.5),
    }
    torch.save({"dims": DIMS, "model_state_dict": state}, HERE / "torch_checkpoint.pt")
    np.savez(
        HERE / "torch_checkpoint.npz",
        **{name: tensor.detach().double().numpy() for name, tensor in state.items()},
    )


if __name__ == "__main__":
    main()
