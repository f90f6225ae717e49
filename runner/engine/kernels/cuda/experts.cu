// Tokens through the experts that they chose, whose weights stay quantised as they lie in memory: they are read, made
// bfloat16 in registers, and multiplied by tensor cores. Affine quantisation as MLX has it: a row is a bitstream of
// unsigned numbers, the lowest bits first, and a number stands for scale * number + bias of its group.

#include <cuda_bf16.h>

namespace rowmill {

typedef __nv_bfloat16 bf16;
typedef __nv_bfloat162 bf16x2;

constexpr int ROWS = 64;    // of weights, for a block
constexpr int CHUNK = 64;   // numbers of a row: 16 for each of the four lanes that share it

// Numbers are taken by twos that are four apart: in 24 bits of 6 or 16 of 4 each, they lie in the same place, so that
// one shift and one mask take both. Of 16 numbers, the j-th two are these; their place among the first ones is `paired`.
__device__ __forceinline__ int paired(int i) { return i / 8 * 8 + i % 4 * 2 + i / 4 % 2; }

// The CHOSEN experts of the highest of a token's scores [tokens, E], the highest first (of equal ones the first), and the
// softmax of these scores: chosen and weights [tokens, CHOSEN]. One block.
template <int E, int CHOSEN>
__device__ __forceinline__ void choose(const bf16* scores, int tokens, unsigned* chosen, float* weights) {
  static_assert(E % 8 == 0, "scores are loaded by eight");
  for (int t = threadIdx.x; t < tokens; t += blockDim.x) {
    float best[CHOSEN];
    unsigned which[CHOSEN] = {};
#pragma unroll
    for (int k = 0; k < CHOSEN; k++) best[k] = __int_as_float(0xff800000);  // minus infinity
#pragma unroll 4
    for (int first = 0; first < E; first += 8) {
      const uint4 eight = *reinterpret_cast<const uint4*>(scores + (size_t)t * E + first);
      const bf16* each = reinterpret_cast<const bf16*>(&eight);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        float score = __bfloat162float(each[i]);
        unsigned expert = first + i;
#pragma unroll
        for (int k = 0; k < CHOSEN; k++) {
          if (!(score > best[k])) continue;
          const float lower = best[k];
          const unsigned other = which[k];
          best[k] = score, which[k] = expert;
          score = lower, expert = other;
        }
      }
    }
    float sum = 0;
#pragma unroll
    for (int k = 0; k < CHOSEN; k++) sum += __expf(best[k] - best[0]);
#pragma unroll
    for (int k = 0; k < CHOSEN; k++) {
      chosen[t * CHOSEN + k] = which[k];
      weights[t * CHOSEN + k] = __expf(best[k] - best[0]) / sum;
    }
  }
}

// outs [tokens, CHOSEN, K] times weights [tokens, CHOSEN], summed up -> out [tokens, K]; a thread for eight of its
// numbers, of which there are `pieces`.
template <int CHOSEN, int K>
__device__ __forceinline__ void weigh(const bf16* outs, const float* weights, int pieces, bf16* out) {
  const int piece = blockIdx.x * blockDim.x + threadIdx.x;
  if (piece >= pieces) return;
  const int token = piece / (K / 8), at = piece % (K / 8) * 8;
  float sums[8] = {};
#pragma unroll
  for (int k = 0; k < CHOSEN; k++) {
    const size_t pair = (size_t)token * CHOSEN + k;
    const uint4 eight = *reinterpret_cast<const uint4*>(outs + pair * K + at);
    const bf16* each = reinterpret_cast<const bf16*>(&eight);
    const float weight = weights[pair];
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] += weight * __bfloat162float(each[i]);
  }
  __align__(16) bf16 done[8];
#pragma unroll
  for (int i = 0; i < 8; i++) done[i] = __float2bfloat16(sums[i]);
  *reinterpret_cast<uint4*>(out + (size_t)token * K + at) = *reinterpret_cast<const uint4*>(done);
}

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

// A row of x [*, K] as the weights are taken. One block.
__device__ __forceinline__ void pair_up(const bf16* x, int K, bf16* to) {
  for (int i = threadIdx.x; i < K; i += blockDim.x) to[paired(i)] = x[i];
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

// The words of a lane's 16 numbers, from shared memory.
__device__ __forceinline__ void load(const unsigned char* from, unsigned (&to)[2]) {
  const uint2 words = *reinterpret_cast<const uint2*>(from);
  to[0] = words.x, to[1] = words.y;
}

__device__ __forceinline__ void load(const unsigned char* from, unsigned (&to)[3]) {
  for (int i = 0; i < 3; i++) to[i] = reinterpret_cast<const unsigned*>(from)[i];
}

__device__ __forceinline__ void load(const unsigned char* from, unsigned (&to)[4]) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  to[0] = words.x, to[1] = words.y, to[2] = words.z, to[3] = words.w;
}

// The j-th two of a lane's 16 numbers, as bfloat16.
template <int BITS>
__device__ __forceinline__ bf16x2 numbers(const unsigned (&words)[BITS / 2], int j) {
  const int q = j / 4, i = j % 4;
  unsigned both;
  if constexpr (BITS == 8) {
    const unsigned low = words[2 * q] >> 8 * i & 255, high = words[2 * q + 1] >> 8 * i & 255;
    return __floats2bfloat162_rn(low, high);
  } else if constexpr (BITS == 6) {
    const unsigned selected = q == 0 ? (i < 2 ? 0x4310 : 0x5421) : (i < 2 ? 0x6532 : 0x7643);
    both = __byte_perm(words[q], words[q + 1], selected) >> (i < 2 ? 6 * i : 6 * i - 8);
  } else {
    both = words[q] >> 4 * i;
  }
  constexpr unsigned MASK = (1 << BITS) - 1;
  const unsigned raised = both & (MASK | MASK << 16) | 0x43004300;  // 128, whose last seven bits count ones
  return __hsub2(*reinterpret_cast<const bf16x2*>(&raised), __float2bfloat162_rn(128));
}

// A quantised [experts, rows, K] as ``Kernels.pack`` lays it out, so that what a block reads lies together: for 64 rows,
// for 64 numbers of each, their words, then scale and bias of each group; and the bias of each row or nullptr.
struct Weights {
  const unsigned* packed;
  const bf16* bias;
};

enum Activation { NONE, SWIGLU, SWIGLU_OAI };  // gpt-oss clips both factors and adds 1 to the linear one

__device__ __forceinline__ float activated(float up, float gate, Activation by) {
  if (by == SWIGLU) return up * gate / (1 + __expf(-gate));
  gate = fminf(gate, 7.0f);
  return (fminf(fmaxf(up, -7.0f), 7.0f) + 1) * gate / (1 + __expf(-1.702f * gate));
}

// A block's shared memory: stages of packed weights and of x, and the pairs.
template <int BITS, int GROUP, int PAIRS, int MATRICES, int STAGES>
struct Memory {
  static constexpr int ROW = 8 * BITS, GROUPS = ROWS * ROW, PACKED = GROUPS + ROWS * (CHUNK / GROUP) * 4;  // bytes
  static constexpr int X_STRIDE = CHUNK + 8;  // so that rows fall on other banks
  unsigned char w[STAGES][MATRICES][PACKED];
  bf16 x[STAGES][PAIRS * X_STRIDE];
  int pair_of[PAIRS];
};

// x [*, K], paired up, through the experts of the pairs -> out [pairs, gridDim.x * ROWS]; pair p's row of x is p / share.
// With an activation there are two matrices, up and gate, and out is paired up. A block for 64 rows of weights and an
// expert, PAIRS of its pairs at a time; a warp for 16 rows of one matrix. A product's terms may come in any order: of 64
// numbers a lane takes 16 neighbours, which it can load at once, where the instruction would have it take two of eight.
template <int BITS, int GROUP, int K, int PAIRS, Activation BY, int STAGES, int SHARED_BYTES>
__device__ __forceinline__ void project(
    const bf16* x, const Weights (&weights)[BY == NONE ? 1 : 2], const int* order, const int* offsets, int share,
    bf16* out) {
  constexpr int MATRICES = BY == NONE ? 1 : 2, THREADS = MATRICES * ROWS * 2, TILES = PAIRS / 8, CHUNKS = K / CHUNK;
  typedef Memory<BITS, GROUP, PAIRS, MATRICES, STAGES> Tiles;
  static_assert(sizeof(Tiles) == SHARED_BYTES, "experts.py asks for other memory than this");
  constexpr int W_PIECES = Tiles::PACKED / 16, X_PIECES = CHUNK / 8, OF_MATRIX = ROWS * 2;
  constexpr int W_LOADS = (W_PIECES + OF_MATRIX - 1) / OF_MATRIX, X_LOADS = (PAIRS * X_PIECES + THREADS - 1) / THREADS;
  extern __shared__ __align__(16) unsigned char shared[];
  Tiles& tiles_of = *reinterpret_cast<Tiles*>(shared);
  const int expert = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int matrix = warp / 4, row = warp % 4 * 16 + lane / 4, column = lane % 4;
  const Weights &one = weights[0], &two = weights[MATRICES - 1];  // chosen so, they stay in registers
  const bf16* my_bias = matrix ? two.bias : one.bias;
  const size_t block = (size_t)expert * gridDim.x + blockIdx.x, first_row = block * ROWS;
  const int thread = threadIdx.x % OF_MATRIX;
  const char* w_from = reinterpret_cast<const char*>(matrix ? two.packed : one.packed);
  w_from += block * CHUNKS * Tiles::PACKED + thread * 16;

  for (int first = offsets[expert]; first < offsets[expert + 1]; first += PAIRS) {
    const int count = min(PAIRS, offsets[expert + 1] - first), tiles = (count + 7) / 8;
    __syncthreads();
    if (threadIdx.x < count) tiles_of.pair_of[threadIdx.x] = order[first + threadIdx.x];
    __syncthreads();
    int x_from[X_LOADS];
#pragma unroll
    for (int l = 0; l < X_LOADS; l++) {
      const int i = threadIdx.x + l * THREADS, pair = tiles_of.pair_of[min(i / X_PIECES, count - 1)];
      x_from[l] = pair / share * K + i % X_PIECES * 8;
    }

    auto fetch = [&](int chunk, int stage) {
#pragma unroll
      for (int l = 0; l < W_LOADS; l++) {
        const int at = l * OF_MATRIX * 16;
        if ((l + 1) * OF_MATRIX <= W_PIECES || thread + l * OF_MATRIX < W_PIECES)
          copy16(&tiles_of.w[stage][matrix][thread * 16 + at], w_from + chunk * W_PIECES * 16 + at);
      }
#pragma unroll
      for (int l = 0; l < X_LOADS; l++) {
        const int i = threadIdx.x + l * THREADS, t = i / X_PIECES;
        if (t < count) copy16(&tiles_of.x[stage][t * Tiles::X_STRIDE + i % X_PIECES * 8], x + x_from[l] + chunk * CHUNK);
      }
    };
    float sum[TILES][4] = {};
    for (int chunk = 0; chunk < STAGES - 1; chunk++) {
      if (chunk < CHUNKS) fetch(chunk, chunk);
      asm volatile("cp.async.commit_group;" ::: "memory");
    }
    int stage = 0;
#pragma unroll 1
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
      asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
      __syncthreads();
      if (chunk + STAGES - 1 < CHUNKS) fetch(chunk + STAGES - 1, stage ? stage - 1 : STAGES - 1);
      asm volatile("cp.async.commit_group;" ::: "memory");
      const unsigned char* from = tiles_of.w[stage][matrix];
      unsigned a[4][4];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        unsigned words[BITS / 2];
        const int r = row + h * 8, group = GROUP == 32 ? 2 * r + column / 2 : r;
        load(from + r * Tiles::ROW + column * 2 * BITS, words);
        const bf16x2 both = *reinterpret_cast<const bf16x2*>(from + Tiles::GROUPS + group * 4);
        const bf16x2 scale = __low2bfloat162(both), shift = __high2bfloat162(both);
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const bf16x2 weight = __hfma2(numbers<BITS>(words, j), scale, shift);
          a[j / 2][h + j % 2 * 2] = *reinterpret_cast<const unsigned*>(&weight);
        }
      }
#pragma unroll
      for (int n = 0; n < TILES; n += 2) {  // two at a time: a product waits for the one before it in the same sum
        if (n >= tiles) continue;
        unsigned b[2][8];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const bf16* x_at = &tiles_of.x[stage][((n + i / 2) * 8 + lane / 4) * Tiles::X_STRIDE + column * 16];
          *reinterpret_cast<uint4*>(&b[i / 2][i % 2 * 4]) = reinterpret_cast<const uint4*>(x_at)[i % 2];
        }
#pragma unroll
        for (int s = 0; s < 8; s++) multiply(sum[n + s % 2], a[s / 2], &b[s % 2][s / 2 * 2]);
      }
      stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    auto each = [&](auto store) {  // the sums of the lane, with the rows' biases: row and pair of the block
#pragma unroll
      for (int i = 0; i < TILES * 4; i++) {
        const int t = i / 4 * 8 + column * 2 + i % 2, r = row + i / 2 % 2 * 8;
        const float bias = my_bias ? __bfloat162float(my_bias[first_row + r]) : 0.0f;
        if (t < count) store(r, t, sum[i / 4][i % 4] + bias);
      }
    };
    float* gates = reinterpret_cast<float*>(shared);  // [PAIRS, ROWS + 4]; the tiles are done with
    if (MATRICES == 2) {
      asm volatile("cp.async.wait_all;" ::: "memory");
      __syncthreads();
      if (matrix == 1) each([&](int r, int t, float gate) { gates[t * (ROWS + 4) + r] = gate; });
      __syncthreads();
    }
    if (matrix == 0)
      each([&](int r, int t, float value) {
        if (MATRICES == 2) value = activated(value, gates[t * (ROWS + 4) + r], BY);
        const size_t to = ((size_t)tiles_of.pair_of[t] * gridDim.x + blockIdx.x) * ROWS;
        out[to + (MATRICES == 2 ? paired(r) : r)] = __float2bfloat16(value);
      });
  }
}

}  // namespace rowmill
