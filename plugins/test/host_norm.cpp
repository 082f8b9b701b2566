// host_norm.h behind a C interface.
#include "host_norm.h"

using namespace ropeexport;

extern "C" int ropeexport_host_norm(const NormRopeParams* params, const Tuning* tuning,
                                    std::int32_t pairing, std::int64_t wave,
                                    host_norm::Seen* seen) {
  return host_norm::walk(*params, *tuning, pairing, wave, *seen);
}
