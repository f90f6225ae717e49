// Attention over keys that lie in one place, as a part that merges with others: the softmax-weighted values in float32,
// and the natural logarithm of the sum of the scores' exponentials ("mass"). Scores and sums are float32 throughout.
// Online softmax after Milakov and Gimelshein 2018; tiles of keys in shared memory after Dao 2023 (FlashAttention-2).
// SCALE is defined by attention.py. Names as in prefix.py: D head size, G queries a KV head.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr float NO_MASS = -1e30f;  // the mass of no keys, as MASKED in layout.py
constexpr float NEVER = -3e38f;   // the score of a key that is not there
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

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
    const float fade = exp2f(top - now);
    top = now;
    total *= fade;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float& one = score[i / 2][i % 2];
      one = exp2f(one - now);
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
      whole = exp2f(sink - now);
    }
    for (int w = 0; w < WARPS; w++) whole += exp2f(tops[w][g] - now) * totals[w][g];
#pragma unroll 4
    for (int o = 0; o < others.count; o++) whole += exp2f(others.masses[o * all + place] * LOG2E - now);
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
      const float weight = exp2f(tops[w][g] - highest[g]);
      for (int e = 0; e < 4; e++) found[e] += weight * sums[w][g][d + e];
    }
#pragma unroll 4
    for (int o = 0; o < others.count; o++) {
      const float weight = exp2f(others.masses[o * all + place] * LOG2E - highest[g]);
      const float4 theirs = *reinterpret_cast<const float4*>(others.outs + (o * all + place) * D + d);
      found[0] += weight * theirs.x;
      found[1] += weight * theirs.y;
      found[2] += weight * theirs.z;
      found[3] += weight * theirs.w;
    }
    for (int e = 0; e < 4; e++) out[row * G * D + i + e] = static_cast<Out>(found[e] * shares[g]);
  }
}

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

// 16 bytes on their way from global to shared memory, zeros if they are not there; until they are awaited, other work.
__device__ __forceinline__ void fetch16(void* to, const void* from, bool there) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}

// All that a thread fetched is there; other threads' is, behind a barrier.
__device__ __forceinline__ void await_fetched() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// 64 rows of D numbers, `stride` apart, to shared memory; `count` of them are there.
template <typename T, int D, int THREADS, int KEYS, int STRIDE>
__device__ __forceinline__ void fetch_tile(T* tile, const T* from, size_t stride, int count) {
#pragma unroll
  for (int i = threadIdx.x; i < KEYS * D / 8; i += THREADS) {
    const int row = i / (D / 8), column = i % (D / 8) * 8;
    const bool there = row < count;
    fetch16(tile + row * STRIDE + column, from + (there ? row * stride : 0) + column, there);
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
  // does not see the key.
  template <typename Added>
  __device__ __forceinline__ void attend(const T* k, const T* v, size_t stride, int from, int to, Added added) {
    constexpr int KEYS = 64, THREADS = WARPS * 32;
    constexpr int STRIDE = D + 8;  // rows of 16 bytes more fall on other banks
    __shared__ __align__(16) T tile_k[KEYS * STRIDE];
    __shared__ __align__(16) T tile_v[KEYS * STRIDE];
    const int lane = threadIdx.x % 32, quad = lane % 4 * 2;  // the first of the two columns that the lane holds
    if (from < to) fetch_tile<T, D, THREADS, KEYS, STRIDE>(tile_k, k + from * stride, stride, to - from);
    for (int at = from; at < to; at += KEYS) {
      await_fetched();
      __syncthreads();  // these keys are there, and the last values are used
      fetch_tile<T, D, THREADS, KEYS, STRIDE>(tile_v, v + at * stride, stride, to - at);
      float score[KEYS / 8][4] = {};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
          unsigned b[4];
          load_matrices(b, tile_k + (j * 16 + lane / 16 * 8 + lane % 8) * STRIDE + d * 16 + lane / 8 % 2 * 8);
          multiply(score[2 * j], query[d], b[0], b[1], T());
          multiply(score[2 * j + 1], query[d], b[2], b[3], T());
        }
      }
      await_fetched();
      __syncthreads();  // these values are there, and the keys are used
      if (at + KEYS < to)
        fetch_tile<T, D, THREADS, KEYS, STRIDE>(tile_k, k + (at + KEYS) * stride, stride, to - at - KEYS);
      float highest[2] = {top[0], top[1]};
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int key = at + j * 8 + quad + e % 2, half = e / 2;
          score[j][e] = key < to ? score[j][e] * (SCALE * LOG2E) + added(half, key) : NEVER;
          highest[half] = fmaxf(highest[half], score[j][e]);
        }
      }
      float fade[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        for (int other = 1; other < 4; other *= 2)
          highest[half] = fmaxf(highest[half], __shfl_xor_sync(~0u, highest[half], other));
        fade[half] = exp2f(top[half] - highest[half]);
        total[half] *= fade[half];
        top[half] = highest[half];
      }
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          score[j][e] = exp2f(score[j][e] - top[e / 2]);
          total[e / 2] += score[j][e];
        }
      }
#pragma unroll
      for (int d = 0; d < D / 8; d++)
        for (int e = 0; e < 4; e++) sum[d][e] *= fade[e / 2];
#pragma unroll
      for (int j = 0; j < KEYS / 16; j++) {
        const float *low = score[2 * j], *high = score[2 * j + 1];
        const unsigned weights[4] = {
            packed(low[0], low[1], T()), packed(low[2], low[3], T()),
            packed(high[0], high[1], T()), packed(high[2], high[3], T())};
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
          unsigned b[4];
          load_transposed(b, tile_v + (j * 16 + lane % 16) * STRIDE + d * 16 + lane / 16 * 8);
          multiply(sum[2 * d], weights, b[0], b[1], T());
          multiply(sum[2 * d + 1], weights, b[2], b[3], T());
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++)
      for (int other = 1; other < 4; other *= 2) total[half] += __shfl_xor_sync(~0u, total[half], other);
  }
};

// Many tokens over the keys of one segment: a block for 16 rows a warp, a KV head and a share of the keys.
// q [T, N, G, D], k and v [N, K, D], mask [tokens, K], bounds {first token, tokens, K, keys of a share}
// -> out [shares, tokens, N, G, D], mass [shares, tokens, N, G].
template <typename T, int D, int G, bool MASK, int WARPS>
__device__ __forceinline__ void attend_segment(
    const T* q, const T* k, const T* v, const float* mask, const int* bounds, float* out, float* mass) {
  const int tokens = bounds[1], keys = bounds[2], quad = threadIdx.x % 4 * 2;
  const int from = blockIdx.z * bounds[3], to = min(keys, from + bounds[3]);
  const size_t head = (size_t)blockIdx.y * keys * D;
  Rows<T, D, G, WARPS> rows(q + (size_t)bounds[0] * gridDim.y * G * D, tokens);
  rows.attend(k + head, v + head, D, from, to, [&](int half, int key) {
    return MASK && rows.there[half] ? mask[(size_t)rows.token[half] * keys + key] * LOG2E : 0;
  });
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

// Tokens of prompts over those of the same step before them, from token `since` [tokens] on, and what others found: a
// block for 16 rows a warp and a KV head. q [T, N, G, D], k and v [T, N, D], bounds {first token, tokens, ring}
// -> out [tokens, N, G, D]. Their keys and values go to slots [slots, N, ring, D] at `slot` and `place` [tokens] (slot
// -1: nowhere).
template <typename T, int D, int G, int WARPS, typename S>
__device__ __forceinline__ void attend_prompts(
    const T* q, const T* k, const T* v, const int* since, const int* slot, const int* place, const int* bounds,
    T* keys, T* values, Others<S> others, T* out) {
  constexpr int ROWS = WARPS * 16;
  const int first = bounds[0], tokens = bounds[1], ring = bounds[2], heads = gridDim.y, quad = threadIdx.x % 4 * 2;
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
  rows.attend(k + head, v + head, (size_t)heads * D, since[begin], first + end, [&](int half, int key) {
    return key >= seen[half] && key <= first + rows.token[half] ? 0 : NEVER;
  });
  const size_t all = (size_t)tokens * heads * G;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (!rows.there[half]) continue;
    const size_t row = rows.place[half];
    float now = rows.top[half], whole = 0;
    const float sink = others.sinks ? static_cast<float>(others.sinks[blockIdx.y * G + row % G]) * LOG2E : NO_MASS;
    now = fmaxf(now, sink);
    for (int o = 0; o < others.count; o++) now = fmaxf(now, others.masses[o * all + row] * LOG2E);
    if (others.sinks) whole = exp2f(sink - now);
    const float own = exp2f(rows.top[half] - now);
    whole += own * rows.total[half];
    for (int o = 0; o < others.count; o++) whole += exp2f(others.masses[o * all + row] * LOG2E - now);
#pragma unroll
    for (int d = 0; d < D / 8; d++) {
      float a = rows.sum[d][2 * half] * own, b = rows.sum[d][2 * half + 1] * own;
      for (int o = 0; o < others.count; o++) {
        const float weight = exp2f(others.masses[o * all + row] * LOG2E - now);
        const float2 theirs = *reinterpret_cast<const float2*>(others.outs + (o * all + row) * D + d * 8 + quad);
        a += weight * theirs.x;
        b += weight * theirs.y;
      }
      *reinterpret_cast<unsigned*>(out + row * D + d * 8 + quad) = packed(a / whole, b / whole, T());
    }
  }
}
