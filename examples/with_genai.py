"""Continue a text with onnxruntime-genai, in an environment that has it.

``make genai`` makes one::

    build/genai/bin/python examples/with_genai.py llama "The import statement" 60
"""

import sys

import onnxruntime_genai as genai

folder, prompt, new = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = genai.Model(folder)
tokenizer = genai.Tokenizer(model)
tokens = tokenizer.encode(prompt)
parameters = genai.GeneratorParams(model)
parameters.set_search_options(do_sample=False, max_length=len(tokens) + new)
generator = genai.Generator(model, parameters)
generator.append_tokens(tokens)
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
