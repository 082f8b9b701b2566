"""Continue a text with optimum, in an environment that has it.

``make optimum`` makes one::

    build/optimum/bin/python examples/with_optimum.py llama "The import statement" 60
"""

import sys

from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

folder, prompt, new = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = ORTModelForCausalLM.from_pretrained(folder, file_name="model.onnx")
tokens = tokenizer(prompt, return_tensors="pt")
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=new, do_sample=False)[0]))
