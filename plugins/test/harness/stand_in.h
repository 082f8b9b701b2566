// What the tests need of a TensorRT library: one that tells its version and has a class of its own
// for the finder of loggers, by which a plugin library finds out what it met.
#pragma once

#include <NvInferRuntime.h>

// The finder of a library, which gives `logger`, where it has one that can be called.
extern "C" nvinfer1::ILoggerFinder* stand_in_finder(nvinfer1::ILogger* logger);
