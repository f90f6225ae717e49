// Tokens through the experts that they chose, whose weights stay quantised as they lie in memory: they are read, made
// bfloat16 in registers, and multiplied by tensor cores. Affine quantisation as MLX has it: a row is a bitstream of
// unsigned numbers, the lowest bits first, and a number stands for scale * number + bias of its group.

#include <cuda_bf16.h>

namespace rowmill {

typedef __nv_bfloat16 bf16;
typedef __nv_bfloat162 bf16x2;

constexpr int ROWS = 64;    // of weights, for a block
constexpr int CHUNK = 64;   // numbers of a row at a time
constexpr int THREADS = 128;
constexpr int X_STRIDE = CHUNK + 8;  // rows of 16 bytes more fall on other banks

// Pairs of a token and an expert, by expert: chosen [pairs] -> order [pairs], the pairs of expert e at
// [offsets[e], offsets[e + 1]). One block.
__device__ __forceinline__ void group_pairs(
    const unsigned* chosen, int pairs, int experts, int* order, int* offsets, int* counts) {
  for (int e = threadIdx.x; e < experts; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  for (int p = threadIdx.x; p < pairs; p += blockDim.x) atomicAdd(&counts[chosen[p]], 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    int sum = 0;
    for (int e = 0; e < experts; e++) {
      const int count = counts[e];
      offsets[e] = counts[e] = sum;
      sum += count;
    }
    offsets[experts] = sum;
  }
  __syncthreads();
  for (int p = threadIdx.x; p < pairs; p += blockDim.x) order[atomicAdd(&counts[chosen[p]], 1)] = p;
}

__device__ __forceinline__ void copy16(void* to, const void* from) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}

// c += a @ b for a [16, 16], b [16, 8], spread over the lanes of a warp as the instruction wants it.
__device__ __forceinline__ void multiply(float* c, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices from shared memory: two tiles of b; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(unsigned (*to)[2], const bf16* row) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0][0]), "=r"(to[0][1]), "=r"(to[1][0]), "=r"(to[1][1]) : "r"(at) : "memory");
}

// Two neighbours of a bitstream, from bit `at` of `words` on, as bfloat16.
template <int BITS>
__device__ __forceinline__ bf16x2 numbers(const unsigned* words, int at) {
  constexpr unsigned MASK = (1 << BITS) - 1, LAST = BITS / 2 - 1;
  const unsigned low = words[at / 32], high = words[min(at / 32 + 1, LAST)];
  const unsigned both = __funnelshift_r(low, high, at & 31);
  if constexpr (BITS == 8) return __floats2bfloat162_rn(both & MASK, both >> 8 & MASK);
  // 0x4300 is 128, whose last seven bits count ones.
  const unsigned raised = 0x43004300 | (both & MASK) | (both >> BITS & MASK) << 16;
  return __hsub2(*reinterpret_cast<const bf16x2*>(&raised), __float2bfloat162_rn(128));
}

// The scales or biases of a row's next one or two groups.
template <int GROUPS>
__device__ __forceinline__ unsigned groups(const bf16* from) {
  if constexpr (GROUPS == 1) return *reinterpret_cast<const unsigned short*>(from);
  return *reinterpret_cast<const unsigned*>(from);
}

__device__ __forceinline__ bf16x2 group(unsigned groups, int g) {
  const unsigned twice = __byte_perm(groups, 0, g ? 0x3232 : 0x1010);
  return *reinterpret_cast<const bf16x2*>(&twice);
}

// A quantised [experts, rows, K]: words, scales and biases of groups, and the bias of each row or nullptr.
struct Weights {
  const unsigned* words;
  const bf16* scales;
  const bf16* biases;
  const bf16* bias;
};

enum Activation { NONE, SWIGLU, SWIGLU_OAI };  // gpt-oss clips both factors and adds 1 to the linear one

__device__ __forceinline__ float activated(float up, float gate, Activation by) {
  if (by == SWIGLU) return up * gate / (1 + __expf(-gate));
  gate = fminf(gate, 7.0f);
  return (fminf(fmaxf(up, -7.0f), 7.0f) + 1) * gate / (1 + __expf(-1.702f * gate));
}

// x [*, K] through the experts of the pairs -> out [pairs, gridDim.x * ROWS]; pair p's row of x is p / share. With an
// activation there are two matrices, up and gate. A block for 64 rows of weights and an expert, PAIRS of its pairs at a
// time; a warp for 16 rows.
template <int BITS, int GROUP, int K, int PAIRS, Activation BY>
__device__ __forceinline__ void project(
    const bf16* x, const Weights (&weights)[BY == NONE ? 1 : 2], const int* order, const int* offsets, int share,
    bf16* out) {
  constexpr int MATRICES = BY == NONE ? 1 : 2, STAGES = BITS == 8 ? 2 : 3;
  constexpr int BYTES = CHUNK * BITS / 8, STRIDE = BITS == 6 ? BYTES : BYTES + 16;  // so that rows fall on other banks
  constexpr int GROUPS = CHUNK / GROUP, CHUNKS = K / CHUNK, TILES = PAIRS / 8;
  __shared__ __align__(16) unsigned char tiles_w[STAGES][MATRICES][ROWS * STRIDE];
  __shared__ __align__(16) bf16 tiles_x[STAGES][PAIRS * X_STRIDE];
  __shared__ int pair_of[PAIRS];
  const int expert = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp * 16 + lane / 4, column = lane % 4 * 2;
  const size_t first_row = ((size_t)expert * gridDim.x + blockIdx.x) * ROWS;

  for (int first = offsets[expert]; first < offsets[expert + 1]; first += PAIRS) {
    const int count = min(PAIRS, offsets[expert + 1] - first), tiles = (count + 7) / 8;
    __syncthreads();
    if (threadIdx.x < count) pair_of[threadIdx.x] = order[first + threadIdx.x];
    __syncthreads();

    auto fetch = [&](int chunk) {
      const int stage = chunk % STAGES;
#pragma unroll
      for (int m = 0; m < MATRICES; m++) {
        const char* from = reinterpret_cast<const char*>(weights[m].words) + first_row * (K * BITS / 8) + chunk * BYTES;
        for (int i = threadIdx.x; i < ROWS * (BYTES / 16); i += THREADS) {
          const int piece = i % (BYTES / 16) * 16, r = i / (BYTES / 16);
          copy16(&tiles_w[stage][m][r * STRIDE + piece], from + r * (K * BITS / 8) + piece);
        }
      }
      for (int i = threadIdx.x; i < count * (CHUNK / 8); i += THREADS) {
        const int t = i / (CHUNK / 8), piece = i % (CHUNK / 8) * 8;
        copy16(&tiles_x[stage][t * X_STRIDE + piece], x + (size_t)(pair_of[t] / share) * K + chunk * CHUNK + piece);
      }
    };
    unsigned scales[2][MATRICES][2], shifts[2][MATRICES][2];  // of the lane's two rows, for this chunk and the next
    auto fetch_groups = [&](int chunk) {
#pragma unroll
      for (int i = 0; i < MATRICES * 2; i++) {
        const size_t at = (first_row + row + i % 2 * 8) * (K / GROUP) + chunk * GROUPS;
        scales[1][i / 2][i % 2] = groups<GROUPS>(weights[i / 2].scales + at);
        shifts[1][i / 2][i % 2] = groups<GROUPS>(weights[i / 2].biases + at);
      }
    };

    float sum[MATRICES][TILES][4] = {};
    for (int chunk = 0; chunk < STAGES - 1; chunk++) {
      if (chunk < CHUNKS) fetch(chunk);
      asm volatile("cp.async.commit_group;" ::: "memory");
    }
    fetch_groups(0);
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
#pragma unroll
      for (int i = 0; i < MATRICES * 2; i++) {
        scales[0][i / 2][i % 2] = scales[1][i / 2][i % 2];
        shifts[0][i / 2][i % 2] = shifts[1][i / 2][i % 2];
      }
      if (chunk + 1 < CHUNKS) fetch_groups(chunk + 1);
      asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
      __syncthreads();
      if (chunk + STAGES - 1 < CHUNKS) fetch(chunk + STAGES - 1);
      asm volatile("cp.async.commit_group;" ::: "memory");
#pragma unroll
      for (int g = 0; g < GROUPS; g++) {
#pragma unroll 1
        for (int step = g * (GROUP / 16); step < (g + 1) * (GROUP / 16); step++) {
          unsigned b[TILES][2];
#pragma unroll
          for (int n = 0; n < TILES; n += 2) {
            const int t = n * 8 + lane / 16 * 8 + lane % 8;
            const bf16* from = &tiles_x[chunk % STAGES][t * X_STRIDE + step * 16 + lane / 8 % 2 * 8];
            if (n < tiles) load_matrices(b + n, from);
          }
#pragma unroll
          for (int m = 0; m < MATRICES; m++) {
            unsigned a[4];
#pragma unroll
            for (int h = 0; h < 2; h++) {
              const unsigned char* from = &tiles_w[chunk % STAGES][m][(row + h * 8) * STRIDE + step * 2 * BITS];
              const unsigned* words = reinterpret_cast<const unsigned*>(from);
#pragma unroll
              for (int part = 0; part < 2; part++) {
                const bf16x2 number = numbers<BITS>(words, (column + part * 8) * BITS);
                const bf16x2 weight = __hfma2(number, group(scales[0][m][h], g), group(shifts[0][m][h], g));
                a[h + 2 * part] = *reinterpret_cast<const unsigned*>(&weight);
              }
            }
#pragma unroll
            for (int n = 0; n < TILES; n++)
              if (n < tiles) multiply(sum[m][n], a, b[n]);
          }
        }
      }
    }
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int t = n * 8 + column + e % 2, r = row + e / 2 * 8;
        if (t >= count) continue;
        float value[MATRICES];
#pragma unroll
        for (int m = 0; m < MATRICES; m++)
          value[m] = sum[m][n][e] + (weights[m].bias ? __bfloat162float(weights[m].bias[first_row + r]) : 0.0f);
        out[((size_t)pair_of[t] * gridDim.x + blockIdx.x) * ROWS + r] =
            __float2bfloat16(MATRICES == 2 ? activated(value[0], value[MATRICES - 1], BY) : value[0]);
      }
    }
  }
}

}  // namespace rowmill
