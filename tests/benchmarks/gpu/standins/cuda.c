// The few functions of the CUDA driver by which a GPU is found.
#include <string.h>

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int* device, int number) { return *device = 0; }
int cuDeviceGetName(char* name, int bytes, int device) {
  strncpy(name, "NVIDIA Stand-in", bytes);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 9 : 0;  // compute capability 9.0
  return 0;
}
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
