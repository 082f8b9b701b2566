"""Models of diffusers and transformers by name: built from a config, with inputs to trace them."""
