"""Name images by a file from `autometa export MODEL --to onnx --support DIR`; needs onnxruntime and Pillow alone.

python examples/run_onnx.py model.onnx photo.jpg another.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["autometa"])
_, channels, height, width = facts["inputs"]["images"]


def pixels(file: str) -> np.ndarray:
    upright = ImageOps.exif_transpose(Image.open(file)).convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(square, np.float32).reshape(height, width, channels).transpose(2, 0, 1)


(found,) = session.run(["probabilities"], {"images": np.stack([pixels(file) for file in sys.argv[2:]])})
for file, probabilities in zip(sys.argv[2:], found, strict=True):
    print(f"{file}\t{facts['classes'][probabilities.argmax()]}\t{probabilities.max():.4f}")
