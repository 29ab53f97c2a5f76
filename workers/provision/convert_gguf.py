"""Convert a GGUF model to a folder that vLLM serves: `python convert_gguf.py FILE.gguf FOLDER`.

Run by its path with the engine environment's Python, which has torch, transformers and gguf; the
fleet imports nothing from here.
"""

import sys
from pathlib import Path

import torch  # type: ignore[import-not-found]
from transformers import (  # type: ignore[import-not-found]
    AutoModelForCausalLM,
    AutoTokenizer,
    logging,
)


def convert(gguf: Path, into: Path) -> None:
    """Write the model and the tokenizer of `gguf` into the folder `into`, weights as bfloat16.

    transformers widens the weights while it reads them, yet still calls the model quantized: unless
    that is cleared first, saving refuses and vLLM looks for quantized weights.
    """
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.is_quantized = False
    model.hf_quantizer = None
    model.quantization_method = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(into)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(into)


if __name__ == "__main__":
    logging.disable_progress_bar()
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
