"""The compiled TensorRT plugin of ropeexport, which ``ropeexport build`` finds by itself."""

from pathlib import Path

LIBRARY = Path(__file__).with_name("libropeexport_plugin.so")
