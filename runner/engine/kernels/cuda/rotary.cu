// Rotary position embeddings (Su et al. 2021) of queries and keys, taken apart from values on the way. Included by
// rotary.py.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace rowmill {

__device__ __forceinline__ float2 unpacked(__nv_bfloat162 pair) { return __bfloat1622float2(pair); }
__device__ __forceinline__ float2 unpacked(__half2 pair) { return __half22float2(pair); }
__device__ __forceinline__ void pack(float2 from, __nv_bfloat162* to) { *to = __float22bfloat162_rn(from); }
__device__ __forceinline__ void pack(float2 from, __half2* to) { *to = __float22half2_rn(from); }

template <typename T>
struct Pair;
template <>
struct Pair<__nv_bfloat16> {
  using type = __nv_bfloat162;
};
template <>
struct Pair<__half> {
  using type = __half2;
};

// product [tokens, H + 2 N, D], positions [tokens], frequencies [D / 2] -> q [tokens, H, D], k and v [tokens, N, D]. A
// block for a token and a share of its heads; numbers i and i + D / 2 are turned together, two of these by a thread.
template <typename T, int D, int H, int N>
__device__ void turn(const T* product, const int* positions, const float* frequencies, T* q, T* k, T* v) {
  using Two = typename Pair<T>::type;
  constexpr int HEADS = H + 2 * N, HALF = D / 2, TWOS = HALF / 2;
  __shared__ float cosines[HALF], sines[HALF];
  const size_t token = blockIdx.x;
  const float position = positions[token];
  for (int i = threadIdx.x; i < HALF; i += blockDim.x) sincosf(position * frequencies[i], &sines[i], &cosines[i]);
  __syncthreads();
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < HEADS * TWOS; i += blockDim.x * gridDim.y) {
    const int head = i / TWOS, at = i % TWOS * 2;
    const T* from = product + (token * HEADS + head) * D + at;
    T* to = head < H ? q + (token * H + head) * D : head < H + N ? k + (token * N + head - H) * D
                                                                  : v + (token * N + head - H - N) * D;
    Two a = *reinterpret_cast<const Two*>(from), b = *reinterpret_cast<const Two*>(from + HALF);
    if (head < H + N) {
      const float2 x = unpacked(a), y = unpacked(b);
      const float2 c = {cosines[at], cosines[at + 1]}, s = {sines[at], sines[at + 1]};
      pack({x.x * c.x - y.x * s.x, x.y * c.y - y.y * s.y}, &a);
      pack({x.x * s.x + y.x * c.x, x.y * s.y + y.y * c.y}, &b);
    }
    *reinterpret_cast<Two*>(to + at) = a;
    *reinterpret_cast<Two*>(to + at + HALF) = b;
  }
}

}  // namespace rowmill
