"""Say what onnxruntime-genai generates: a folder, how many tokens, batches of prompts as JSON.

Run by the Python of an environment that has onnxruntime-genai.
"""

import json
import sys

import numpy as np
import onnxruntime_genai as genai

folder, new, batches = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
model = genai.Model(folder)
texts = []
for prompts in batches:
    length = len(prompts[0])
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=length + new, batch_size=len(prompts))
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(prompts, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    texts.append([generator.get_sequence(row)[length:].tolist() for row in range(len(prompts))])
print(json.dumps(texts))
