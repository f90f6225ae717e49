// The sum of a block's input and what a layer makes of it, and the RMS norm (Zhang & Sennrich 2019) that comes next.
// Included by norms.py.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace rowmill {

// The sum of a number in all threads of a block, of whole warps.
__device__ __forceinline__ float total(float x, float* shared) {
  for (int i = 16; i; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0;
  for (int i = 16; i; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
  return x;
}

// x [tokens, D] + outs [tokens, D], or with CHOSEN the sum of outs [tokens, CHOSEN, D] times weights [tokens, CHOSEN]
// -> sum, and normed, times scale [D]. A block for a token, a thread for eight numbers at a time.
template <typename T, int D, int CHOSEN, int THREADS>
__device__ __forceinline__ void add_norm(
    const T* x, const T* outs, const float* weights, const T* scale, float eps, T* sum, T* normed) {
  constexpr int PIECES = D / 8, TIMES = (PIECES + THREADS - 1) / THREADS, OUTS = CHOSEN ? CHOSEN : 1;
  __shared__ float shared[32];
  const size_t token = blockIdx.x, row = token * PIECES;
  const uint4 *from = reinterpret_cast<const uint4*>(x) + row, *more = reinterpret_cast<const uint4*>(outs) + row * OUTS;
  float sums[TIMES][8], squares = 0;
#pragma unroll
  for (int t = 0; t < TIMES; t++) {
    const int piece = t * THREADS + threadIdx.x;
    if (piece >= PIECES) continue;
    const uint4 eight = from[piece];
    float added[8] = {};
#pragma unroll
    for (int k = 0; k < OUTS; k++) {
      const uint4 one = more[k * PIECES + piece];
      const float weight = CHOSEN ? weights[token * CHOSEN + k] : 1.0f;
#pragma unroll
      for (int i = 0; i < 8; i++) added[i] += weight * float(reinterpret_cast<const T*>(&one)[i]);
    }
    uint4 out;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const T whole = T(float(reinterpret_cast<const T*>(&eight)[i]) + float(T(added[i])));
      reinterpret_cast<T*>(&out)[i] = whole;
      sums[t][i] = float(whole);
      squares += sums[t][i] * sums[t][i];
    }
    reinterpret_cast<uint4*>(sum)[row + piece] = out;
  }
  const float factor = rsqrtf(total(squares, shared) / D + eps);
#pragma unroll
  for (int t = 0; t < TIMES; t++) {
    const int piece = t * THREADS + threadIdx.x;
    if (piece >= PIECES) continue;
    const uint4 eight = reinterpret_cast<const uint4*>(scale)[piece];
    uint4 out;
#pragma unroll
    for (int i = 0; i < 8; i++)
      reinterpret_cast<T*>(&out)[i] =
          T(float(reinterpret_cast<const T*>(&eight)[i]) * float(T(sums[t][i] * factor)));
    reinterpret_cast<uint4*>(normed)[row + piece] = out;
  }
}

}  // namespace rowmill
