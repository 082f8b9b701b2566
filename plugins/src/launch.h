// What nvcc compiles for the plugin.
#pragma once

#include <cuda_runtime_api.h>

#include "form.h"
#include "ropeexport/params.cuh"

namespace ropeexport {

// A source file each, so that they compile side by side; whoever links their objects launches the
// plugin's own kernels.
cudaError_t enqueue_matrices(const Form& form, const ApplyRopeParams& params, cudaStream_t stream,
                             const Tuning& tuning) noexcept;
cudaError_t enqueue_neighbours(const Form& form, const ApplyRopeParams& params, cudaStream_t stream,
                               const Tuning& tuning) noexcept;
cudaError_t enqueue_halves(const Form& form, const ApplyRopeParams& params, cudaStream_t stream,
                           const Tuning& tuning) noexcept;

inline cudaError_t enqueue_rope(const Form& form, const ApplyRopeParams& params,
                                cudaStream_t stream, const Tuning& tuning = Tuning{}) noexcept {
  if (!form.tables) return enqueue_matrices(form, params, stream, tuning);
  return form.halves ? enqueue_halves(form, params, stream, tuning)
                     : enqueue_neighbours(form, params, stream, tuning);
}

// Of rows that are normed first. The same kernels rotate all of a row or a part of it.
cudaError_t enqueue_norm_matrices(const NormRopeParams& params, cudaStream_t stream,
                                  const Tuning& tuning) noexcept;
cudaError_t enqueue_norm_neighbours(const NormRopeParams& params, cudaStream_t stream,
                                    const Tuning& tuning) noexcept;
cudaError_t enqueue_norm_halves(const NormRopeParams& params, cudaStream_t stream,
                                const Tuning& tuning) noexcept;

inline cudaError_t enqueue_norm_rope(const Form& form, const NormRopeParams& params,
                                     cudaStream_t stream,
                                     const Tuning& tuning = Tuning{}) noexcept {
  if (!form.tables) return enqueue_norm_matrices(params, stream, tuning);
  return form.halves ? enqueue_norm_halves(params, stream, tuning)
                     : enqueue_norm_neighbours(params, stream, tuning);
}

}  // namespace ropeexport
