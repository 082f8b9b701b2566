"""The TensorRT stage: flavours, plugin library, network, build, inspection."""
