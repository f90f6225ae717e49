// Attention over keys that lie in one place, as a part that merges with others: the softmax-weighted values in float32,
// and the natural logarithm of the sum of the scores' exponentials ("mass"). Scores and sums are float32 throughout.
// Online softmax after Milakov and Gimelshein 2018; tiles of keys in shared memory after Dao 2023 (FlashAttention-2).
// SCALE and KEYS are defined by attention.py. Names as in prefix.py: D head size, G queries a KV head.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr float NO_MASS = -1e30f;  // the mass of no keys, as MASKED in layout.py
constexpr float NEVER = -3e38f;   // the score of a key that is not there
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

__device__ __forceinline__ float power_of_2(float exponent) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
  return power;
}

__device__ __forceinline__ unsigned packed(float a, float b, __nv_bfloat16) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<unsigned*>(&pair);
}

__device__ __forceinline__ unsigned packed(float a, float b, __half) {
  __half2 pair = __floats2half2_rn(a, b);
  return *reinterpret_cast<unsigned*>(&pair);
}

// What other kernels found for the same tokens: outs [count, tokens, N, G, D], masses [count, tokens, N, G]; and the
// model's attention sinks [N, G], or nullptr.
template <typename S>
struct Others {
  const float* outs;
  const float* masses;
  int count;
  const S* sinks;
};

// The tokens' own keys and values [tokens, N, D], to be stored in their slots at place [tokens]; nullptr: they are there.
template <typename T>
struct Fresh {
  const T* k;
  const T* v;
  const int* place;
};

// c += a @ b for a [16, 16], b [16, 8], spread over the lanes of a warp as the instruction wants it.
__device__ __forceinline__ void multiply(float* c, const unsigned* a, unsigned b0, unsigned b1, __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply(float* c, const unsigned* a, unsigned b0, unsigned b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// N words from memory in as few loads as may be.
template <int N>
__device__ __forceinline__ void load_words(const void* from, unsigned* to) {
#pragma unroll
  for (int i = 0; i < N; i += N % 4 == 0 ? 4 : N % 2 == 0 ? 2 : 1) {
    const unsigned* at = reinterpret_cast<const unsigned*>(from) + i;
    if constexpr (N % 4 == 0) {
      const uint4 four = *reinterpret_cast<const uint4*>(at);
      to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
    } else if constexpr (N % 2 == 0) {
      const uint2 two = *reinterpret_cast<const uint2*>(at);
      to[i] = two.x, to[i + 1] = two.y;
    } else {
      to[i] = *at;
    }
  }
}

// A decoding token over its slot: one block for a token and KV head, whose warps take 16 keys each in turn. Lanes load
// keys and values as they lie in memory, with no way through shared memory: which of a head's numbers an instruction
// takes for its k-th is free if queries and keys agree, and which column of values a lane adds up is its own affair.
// q [T, N, G, D], keys and values [slots, N, ring, D], mask [slots, K], slot_of [tokens], bounds {K, ring}
// -> out [tokens, N, G, D] over these keys and the others' together, mass_out [tokens, N, G] or nullptr. G is 8 at most.
template <typename T, int D, int G, int WARPS, typename Out, typename S>
__device__ __forceinline__ void attend_slot(
    const T* q, T* keys, T* values, const float* mask, const int* slot_of, const int* bounds, Fresh<T> fresh,
    Others<S> others, Out* out, float* mass_out) {
  constexpr int KEY_WORDS = D / 8, VALUE_WORDS = D / 16;  // of a fourth of a key, of an eighth of a value
  __shared__ float sums[WARPS][G][D];
  __shared__ float tops[WARPS][G], totals[WARPS][G], highest[G], shares[G];
  const int seen = bounds[0], ring = bounds[1], heads = gridDim.y, slot = slot_of[blockIdx.x];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, eighth = lane / 4, fourth = lane % 4;
  const size_t row = (size_t)blockIdx.x * heads + blockIdx.y;  // of the token and KV head
  const size_t base = ((size_t)slot * heads + blockIdx.y) * ring * D;
  if (fresh.k) {
    const size_t to = base + (size_t)fresh.place[blockIdx.x] * D;
    for (int i = threadIdx.x; i < D; i += WARPS * 32) {
      keys[to + i] = fresh.k[row * D + i];
      values[to + i] = fresh.v[row * D + i];
    }
    __syncthreads();
  }

  unsigned query[KEY_WORDS] = {};
  if (eighth < G) load_words<KEY_WORDS>(q + (row * G + eighth) * D + fourth * (D / 4), query);
  float sum[D / 8][4] = {}, top = NO_MASS, total = 0;
  for (int first = warp * 16; first < seen; first += WARPS * 16) {
    unsigned key[2][KEY_WORDS], value[4][VALUE_WORDS];
#pragma unroll
    for (int t = 0; t < 2; t++) {
      const int at = min(first + t * 8 + eighth, seen - 1);
      load_words<KEY_WORDS>(keys + base + (size_t)at * D + fourth * (D / 4), key[t]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int at = min(first + i / 2 * 8 + fourth * 2 + i % 2, seen - 1);
      load_words<VALUE_WORDS>(values + base + (size_t)at * D + eighth * (D / 8), value[i]);
    }
    float score[2][4] = {}, now = top;
#pragma unroll
    for (int s = 0; s < D / 16; s++) {
      const unsigned a[4] = {query[2 * s], 0, query[2 * s + 1], 0};
#pragma unroll
      for (int t = 0; t < 2; t++) multiply(score[t], a, key[t][2 * s], key[t][2 * s + 1], T());
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int at = first + i / 2 * 8 + fourth * 2 + i % 2;
      float& one = score[i / 2][i % 2];
      one = at < seen ? one * (SCALE * LOG2E) + mask[(size_t)slot * seen + at] * LOG2E : NEVER;
      now = fmaxf(now, one);
    }
    for (int other = 1; other < 4; other *= 2) now = fmaxf(now, __shfl_xor_sync(~0u, now, other));
    const float fade = power_of_2(top - now);
    top = now;
    total *= fade;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float& one = score[i / 2][i % 2];
      one = power_of_2(one - now);
      total += one;
    }
    const unsigned weights[4] = {packed(score[0][0], score[0][1], T()), 0, packed(score[1][0], score[1][1], T()), 0};
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      sum[j][0] *= fade;
      sum[j][1] *= fade;
      const unsigned chosen = j % 2 ? 0x7632 : 0x5410;
      multiply(
          sum[j], weights, __byte_perm(value[0][j / 2], value[1][j / 2], chosen),
          __byte_perm(value[2][j / 2], value[3][j / 2], chosen), T());
    }
  }
  for (int other = 1; other < 4; other *= 2) total += __shfl_xor_sync(~0u, total, other);
  if (eighth < G) {
#pragma unroll
    for (int j = 0; j < D / 8; j++)
      for (int e = 0; e < 2; e++) sums[warp][eighth][(fourth * 2 + e) * (D / 8) + j] = sum[j][e];
    if (fourth == 0) {
      tops[warp][eighth] = top;
      totals[warp][eighth] = total;
    }
  }
  __syncthreads();
  const size_t all = (size_t)gridDim.x * heads * G;
  if (threadIdx.x < G) {  // what the warps of the block and the others weigh together
    const int g = threadIdx.x;
    const size_t place = row * G + g;
    float now = NO_MASS, whole = 0;
    for (int w = 0; w < WARPS; w++) now = fmaxf(now, tops[w][g]);
#pragma unroll 4
    for (int o = 0; o < others.count; o++) now = fmaxf(now, others.masses[o * all + place] * LOG2E);
    if (others.sinks) {
      const float sink = static_cast<float>(others.sinks[blockIdx.y * G + g]) * LOG2E;
      now = fmaxf(now, sink);
      whole = power_of_2(sink - now);
    }
    for (int w = 0; w < WARPS; w++) whole += power_of_2(tops[w][g] - now) * totals[w][g];
#pragma unroll 4
    for (int o = 0; o < others.count; o++) whole += power_of_2(others.masses[o * all + place] * LOG2E - now);
    highest[g] = now;
    shares[g] = whole > 0 ? 1 / whole : 0;
    if (mass_out) mass_out[place] = whole > 0 ? (now + log2f(whole)) * LN2 : NO_MASS;
  }
  __syncthreads();
  for (int i = threadIdx.x * 4; i < G * D; i += WARPS * 128) {
    const int g = i / D, d = i % D;
    const size_t place = row * G + g;
    float found[4] = {};
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float weight = power_of_2(tops[w][g] - highest[g]);
      for (int e = 0; e < 4; e++) found[e] += weight * sums[w][g][d + e];
    }
#pragma unroll 4
    for (int o = 0; o < others.count; o++) {
      const float weight = power_of_2(others.masses[o * all + place] * LOG2E - highest[g]);
      const float4 theirs = *reinterpret_cast<const float4*>(others.outs + (o * all + place) * D + d);
      found[0] += weight * theirs.x;
      found[1] += weight * theirs.y;
      found[2] += weight * theirs.z;
      found[3] += weight * theirs.w;
    }
    for (int e = 0; e < 4; e++) out[row * G * D + i + e] = static_cast<Out>(found[e] * shares[g]);
  }
}

// Tiles of shared memory: KEYS rows of D numbers in panels of 64 columns. Which of 8 places in a row a piece of 16 bytes
// has depends on the row, so that those of 8 rows lie on different banks; Hopper's instructions expect them there, too.
template <int D>
__device__ __forceinline__ int tile_place(int row, int column) {
  constexpr int WIDTH = D < 64 ? D : 64;
  return (column / WIDTH * KEYS + row) * WIDTH + (column % WIDTH / 8 ^ row % (WIDTH / 8)) * 8;
}

// 16 bytes on their way from global to shared memory, zeros if they are not there; until they are awaited, other work.
__device__ __forceinline__ void fetch16(void* to, const void* from, bool there) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}

// A tile's rows of D numbers, `stride` apart; `count` of them are there.
template <typename T, int D, int THREADS>
__device__ __forceinline__ void fetch_tile(T* tile, const T* from, size_t stride, int count) {
  constexpr int PIECES = D / 8, STEP = THREADS / PIECES;  // rows at once
  static_assert(THREADS % PIECES == 0 && STEP % 8 == 0);
  const int first = threadIdx.x / PIECES, column = threadIdx.x % PIECES * 8;
  T* const to = tile + tile_place<D>(first, column);
  from += first * stride + column;
#pragma unroll
  for (int row = 0; row < KEYS; row += STEP)
    if (KEYS % STEP == 0 || first + row < KEYS)
      fetch16(to + tile_place<D>(row, 0), from + row * stride, first + row < count);
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool HOPPER = true;
#define FOUR(c) "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])
// c [64, 64] (+)= a [64, 16] @ b [16, 64] by the four warps of a group, the rows of c and a spread over them as above.
#define MULTIPLY_IN_GROUP(KIND, TYPE) \
  template <int TRANSPOSED> \
  __device__ __forceinline__ void multiply_in_group( \
      float (*c)[4], const unsigned* a, unsigned long long b, int adds, TYPE) { \
    asm volatile( \
        "{ .reg .pred p; setp.ne.b32 p, %37, 0;\n" \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." KIND "." KIND " " \
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, " \
        "{%32,%33,%34,%35}, %36, p, 1, 1, %38; }\n" \
        : FOUR(c[0]), FOUR(c[1]), FOUR(c[2]), FOUR(c[3]), FOUR(c[4]), FOUR(c[5]), FOUR(c[6]), FOUR(c[7]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(TRANSPOSED)); \
  }
MULTIPLY_IN_GROUP("bf16", __nv_bfloat16)
MULTIPLY_IN_GROUP("f16", __half)

// 64 columns of a tile from a place on, as an operand: groups of 8 rows lie 1,024 bytes apart.
__device__ __forceinline__ unsigned long long operand(const void* tile) {
  const unsigned long long at = __cvta_generic_to_shared(tile);
  return (at & 0x3ffff) >> 4 | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}

// Keeps the compiler from moving what is done with registers across: products with them were on their way before, or are
// from here on.
template <int N>
__device__ __forceinline__ void settled(float (*c)[4]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : FOUR(c[i])::"memory");
}

template <int N>
__device__ __forceinline__ void settled(unsigned (*a)[4]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])::"memory");
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All products but those of the latest LATEST groups are there.
template <int LATEST>
__device__ __forceinline__ void await_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LATEST) : "memory");
}

// What a thread fetched is there, and for the instructions of a group, too; other threads' is behind a barrier.
__device__ __forceinline__ void await_fetched() {
  asm volatile("cp.async.wait_all;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}
#else
constexpr bool HOPPER = false;
template <int TRANSPOSED, typename T>
__device__ void multiply_in_group(float (*)[4], const unsigned*, unsigned long long, int, T) {}
__device__ unsigned long long operand(const void*) { return 0; }
template <int N, typename A>
__device__ __forceinline__ void settled(A) {}
__device__ __forceinline__ void begin_products() {}
__device__ __forceinline__ void end_products() {}
template <int LATEST>
__device__ __forceinline__ void await_products() {}
__device__ __forceinline__ void await_fetched() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif

// Four 8 x 8 matrices of 16-bit numbers from shared memory; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(unsigned* to, const void* row) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
}

__device__ __forceinline__ void load_transposed(unsigned* to, const void* row) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
}

// Of 16 rows a warp: score [16, KEYS] = query [16, D] @ the tile's transpose. On Hopper, for heads that fill panels, it
// is on its way until awaited, as is the next.
template <typename T, int D>
__device__ __forceinline__ void begin_scores(float (*score)[4], unsigned (*query)[4], const T* tile) {
  if constexpr (HOPPER && D % 64 == 0) {
    settled<KEYS / 8>(score);
    begin_products();
#pragma unroll
    for (int d = 0; d < D / 16; d++)
      multiply_in_group<0>(score, query[d], operand(tile + d / 4 * KEYS * 64 + d % 4 * 16), d > 0, T());
    end_products();
  } else {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
      for (int e = 0; e < 4; e++) score[j][e] = 0;
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
#pragma unroll
      for (int j = 0; j < KEYS / 16; j++) {
        unsigned b[4];
        load_matrices(b, tile + tile_place<D>(j * 16 + lane / 16 * 8 + lane % 8, d * 16 + lane / 8 % 2 * 8));
        multiply(score[2 * j], query[d], b[0], b[1], T());
        multiply(score[2 * j + 1], query[d], b[2], b[3], T());
      }
    }
  }
}

// sum [16, D] += weights [16, KEYS] @ the tile.
template <typename T, int D>
__device__ __forceinline__ void begin_sum(float (*sum)[4], unsigned (*weights)[4], const T* tile) {
  if constexpr (HOPPER && D % 64 == 0) {
    settled<D / 8>(sum);
    settled<KEYS / 16>(weights);
    begin_products();
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
      for (int panel = 0; panel < D / 64; panel++)
        multiply_in_group<1>(sum + panel * 8, weights[j], operand(tile + (panel * KEYS + j * 16) * 64), 1, T());
    }
    end_products();
  } else {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        unsigned b[4];
        load_transposed(b, tile + tile_place<D>(j * 16 + lane % 16, d * 16 + lane / 16 * 8));
        multiply(sum[2 * d], weights[j], b[0], b[1], T());
        multiply(sum[2 * d + 1], weights[j], b[2], b[3], T());
      }
    }
  }
}

// The rows of a block, 16 a warp (a row is a token and one of its G queries of a KV head), and what they found so far.
// Of the two rows that a lane holds: the token, whether there is one, its place in an array [tokens, N, G].
template <typename T, int D, int G, int WARPS>
struct Rows {
  int token[2];
  bool there[2];
  size_t place[2];
  unsigned query[D / 16][4];
  float sum[D / 8][4] = {}, top[2] = {NO_MASS, NO_MASS}, total[2] = {};

  // q: those of the first token.
  __device__ __forceinline__ Rows(const T* q, int tokens) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quad = lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = (blockIdx.x * WARPS + warp) * 16 + half * 8 + lane / 4;
      token[half] = row / G;
      there[half] = token[half] < tokens;
      place[half] = ((size_t)token[half] * gridDim.y + blockIdx.y) * G + row % G;
      const T* from = q + place[half] * D + quad;
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        query[d][half] = there[half] ? *reinterpret_cast<const unsigned*>(from + d * 16) : 0;
        query[d][half + 2] = there[half] ? *reinterpret_cast<const unsigned*>(from + d * 16 + 8) : 0;
      }
    }
  }

  // Keys [from, to) of k and v, rows `stride` apart. added(half, key): what a row's score has added, NEVER if the row
  // does not see the key. The scores of the next keys are on their way while these weigh their values.
  template <typename Added>
  __device__ __forceinline__ void attend(const T* k, const T* v, size_t stride, int from, int to, Added added) {
    constexpr int THREADS = WARPS * 32, TILE = KEYS * D;
    const int count = (to - from + KEYS - 1) / KEYS;
    T* const tiles = shared_tiles();  // of keys, then of values, two each
    const auto fetch = [&](int i, const T* rows, T* tile) {
      const int at = from + i * KEYS;
      if (i < count) fetch_tile<T, D, THREADS>(tile + i % 2 * TILE, rows + at * stride, stride, to - at);
    };
    float score[KEYS / 8][4], fade[2];
    unsigned weights[KEYS / 16][4] = {};
    if (count <= 0) return;
    // All products have ended: the sums fade, and the registers of the last weights are free for these.
    const auto take_weights = [&]() {
      await_products<0>();
      settled<D / 8>(sum);
      settled<KEYS / 16>(weights);
#pragma unroll
      for (int d = 0; d < D / 8; d++)
        for (int e = 0; e < 4; e++) sum[d][e] *= fade[e / 2];
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++)
        for (int half = 0; half < 2; half++)
          weights[j / 2][j % 2 * 2 + half] = packed(score[j][2 * half], score[j][2 * half + 1], T());
    };
    // The tiles of this turn are there, and all warps have used those of the last one.
    const auto await_tiles = [&]() {
      await_fetched();
      __syncthreads();
    };
    __syncthreads();  // the tiles of other keys are used
    fetch(0, k, tiles);
    await_tiles();
    fetch(1, k, tiles);
    fetch(0, v, tiles + 2 * TILE);
    begin_scores<T, D>(score, query, tiles);
    await_products<0>();
    settled<KEYS / 8>(score);
    weigh(score, fade, from, to, added);
    for (int i = 0; i + 1 < count; i++) {
      take_weights();
      await_tiles();
      fetch(i + 2, k, tiles);
      fetch(i + 1, v, tiles + 2 * TILE);
      begin_scores<T, D>(score, query, tiles + (i + 1) % 2 * TILE);
      begin_sum<T, D>(sum, weights, tiles + (2 + i % 2) * TILE);
      await_products<1>();
      settled<KEYS / 8>(score);
      weigh(score, fade, from + (i + 1) * KEYS, to, added);
    }
    take_weights();
    await_tiles();
    begin_sum<T, D>(sum, weights, tiles + (3 - count % 2) * TILE);
    await_products<0>();
    settled<D / 8>(sum);
  }

  // Weights of scores in their place, by which the highest one so far is 1, and how much of the sums before stays.
  template <typename Added>
  __device__ __forceinline__ void weigh(float (*score)[4], float* fade, int at, int to, Added added) {
    const int quad = threadIdx.x % 4 * 2;  // the first of the two columns that the lane holds
    float highest[2] = {top[0], top[1]};
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        score[j][e] = score[j][e] * (SCALE * LOG2E) + added(e / 2, min(at + j * 8 + quad + e % 2, to - 1));
      }
    }
    if (at + KEYS > to) {
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++)
        for (int e = 0; e < 4; e++)
          if (at + j * 8 + quad + e % 2 >= to) score[j][e] = NEVER;
    }
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
      for (int e = 0; e < 4; e++) highest[e / 2] = fmaxf(highest[e / 2], score[j][e]);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      for (int other = 1; other < 4; other *= 2)
        highest[half] = fmaxf(highest[half], __shfl_xor_sync(~0u, highest[half], other));
      fade[half] = power_of_2(top[half] - highest[half]);
      total[half] *= fade[half];
      top[half] = highest[half];
    }
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        score[j][e] = power_of_2(score[j][e] - top[e / 2]);
        total[e / 2] += score[j][e];
      }
    }
  }

  // All keys have been attended to: a row's total is that of its four lanes.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; half++)
      for (int other = 1; other < 4; other *= 2) total[half] += __shfl_xor_sync(~0u, total[half], other);
  }

  static __device__ __forceinline__ T* shared_tiles() {
    extern __shared__ __align__(1024) unsigned char shared[];
    return reinterpret_cast<T*>(shared + (-__cvta_generic_to_shared(shared) & 1023));
  }
};

// Many tokens over the keys of one segment: a block for 16 rows a warp, a KV head and a share of the keys.
// q [T, N, G, D], k and v [N, K, D], mask [tokens, K], bounds {first token, tokens, K, keys of a share}
// -> out [shares, tokens, N, G, D], mass [shares, tokens, N, G].
template <typename T, int D, int G, int WARPS, bool MASK>
__device__ __forceinline__ void attend_segment(
    const T* q, const T* k, const T* v, const float* mask, const int* bounds, float* out, float* mass) {
  const int tokens = bounds[1], keys = bounds[2], quad = threadIdx.x % 4 * 2;
  const int from = blockIdx.z * bounds[3], to = min(keys, from + bounds[3]);
  const size_t head = (size_t)blockIdx.y * keys * D;
  Rows<T, D, G, WARPS> rows(q + (size_t)bounds[0] * gridDim.y * G * D, tokens);
  rows.attend(k + head, v + head, D, from, to, [&](int half, int key) {
    return MASK && rows.there[half] ? mask[(size_t)rows.token[half] * keys + key] * LOG2E : 0;
  });
  rows.finish();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (!rows.there[half]) continue;
    const float total = rows.total[half], share = total > 0 ? 1 / total : 0;
    const size_t row = (size_t)blockIdx.z * tokens * gridDim.y * G + rows.place[half];
#pragma unroll
    for (int d = 0; d < D / 8; d++)
      *reinterpret_cast<float2*>(out + row * D + d * 8 + quad) =
          make_float2(rows.sum[d][2 * half] * share, rows.sum[d][2 * half + 1] * share);
    if (quad == 0) mass[row] = total > 0 ? (rows.top[half] + log2f(total)) * LN2 : NO_MASS;
  }
}

// Tokens of prompts over a prefix that all of them see, over those of the same step before them, from token `since`
// [tokens] on, and what others found: a block for 16 rows a warp and a KV head. q [T, N, G, D], k and v [T, N, D],
// prefix_k and prefix_v [N, K, D], bounds {first token, tokens, ring, K} -> out [tokens, N, G, D]. Their keys and values go to slots [slots, N, ring, D] at `slot` and `place` [tokens] (slot
// -1: nowhere).
template <typename T, int D, int G, int WARPS, typename S>
__device__ __forceinline__ void attend_prompts(
    const T* q, const T* k, const T* v, const T* prefix_k, const T* prefix_v, const int* since, const int* slot,
    const int* place, const int* bounds, T* keys, T* values, Others<S> others, T* out) {
  constexpr int ROWS = WARPS * 16;
  const int first = bounds[0], tokens = bounds[1], ring = bounds[2], prefix = bounds[3];
  const int heads = gridDim.y, quad = threadIdx.x % 4 * 2;
  const int begin = (int)blockIdx.x * ROWS / G, end = min(tokens, ((int)(blockIdx.x + 1) * ROWS + G - 1) / G);  // of the block
  for (int i = threadIdx.x; i < (end - begin) * D / 8; i += WARPS * 32) {
    const int token = begin + i / (D / 8), column = i % (D / 8) * 8;
    if (slot[token] < 0) continue;
    const size_t from = ((size_t)(first + token) * heads + blockIdx.y) * D + column;
    const size_t to = (((size_t)slot[token] * heads + blockIdx.y) * ring + place[token]) * D + column;
    *reinterpret_cast<uint4*>(keys + to) = *reinterpret_cast<const uint4*>(k + from);
    *reinterpret_cast<uint4*>(values + to) = *reinterpret_cast<const uint4*>(v + from);
  }
  Rows<T, D, G, WARPS> rows(q + (size_t)first * heads * G * D, tokens);
  const int seen[2] = {rows.there[0] ? since[rows.token[0]] : 0, rows.there[1] ? since[rows.token[1]] : 0};
  const size_t head = (size_t)blockIdx.y * D;
  if (prefix > 0)
    rows.attend(prefix_k + head * prefix, prefix_v + head * prefix, D, 0, prefix, [](int, int) { return 0.0f; });
  rows.attend(k + head, v + head, (size_t)heads * D, since[begin], first + end, [&](int half, int key) {
    return key >= seen[half] && key <= first + rows.token[half] ? 0 : NEVER;
  });
  rows.finish();
  const size_t all = (size_t)tokens * heads * G;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (!rows.there[half]) continue;
    const size_t row = rows.place[half];
    float now = rows.top[half], whole = 0;
    const float sink = others.sinks ? static_cast<float>(others.sinks[blockIdx.y * G + row % G]) * LOG2E : NO_MASS;
    now = fmaxf(now, sink);
    for (int o = 0; o < others.count; o++) now = fmaxf(now, others.masses[o * all + row] * LOG2E);
    if (others.sinks) whole = power_of_2(sink - now);
    const float own = power_of_2(rows.top[half] - now);
    whole += own * rows.total[half];
    for (int o = 0; o < others.count; o++) whole += power_of_2(others.masses[o * all + row] * LOG2E - now);
    float found[D / 8][2];
#pragma unroll
    for (int d = 0; d < D / 8; d++)
      for (int e = 0; e < 2; e++) found[d][e] = rows.sum[d][2 * half + e] * own;
    for (int o = 0; o < others.count; o++) {
      const float weight = power_of_2(others.masses[o * all + row] * LOG2E - now);
#pragma unroll
      for (int d = 0; d < D / 8; d++) {
        const float2 theirs = *reinterpret_cast<const float2*>(others.outs + (o * all + row) * D + d * 8 + quad);
        found[d][0] += weight * theirs.x;
        found[d][1] += weight * theirs.y;
      }
    }
    const float share = 1 / whole;
#pragma unroll
    for (int d = 0; d < D / 8; d++)
      *reinterpret_cast<unsigned*>(out + row * D + d * 8 + quad) = packed(found[d][0] * share, found[d][1] * share, T());
  }
}
