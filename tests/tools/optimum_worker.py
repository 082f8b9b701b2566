"""Say what optimum's ORTModelForCausalLM generates: as genai_worker.py, padding on the left.

Run by the Python of an environment that has optimum-onnx.
"""

import json
import sys

import torch
from optimum.onnxruntime import ORTModelForCausalLM

folder, new, batches = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
model = ORTModelForCausalLM.from_pretrained(folder, file_name="model.onnx", use_io_binding=False)
texts = []
for prompts in batches:
    longest = max(map(len, prompts))
    rows = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    said = model.generate(
        input_ids=torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    texts.append(said[:, longest:].tolist())
print(json.dumps(texts))
