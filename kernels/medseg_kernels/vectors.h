/* Vectors of floats: as wide as the machine's, and what plain C lacks for them. */

#pragma once

#include <string.h>

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* Floats of a vector. */
#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__FMA__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

#define INLINE static inline __attribute__((always_inline))

typedef long long number;
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const anywhere *)from; }
INLINE void store(float *to, vec value) { *(anywhere *)to = value; }
INLINE vec splat(float value) { return value - (vec){0}; }

/* c + a b, rounded once where the machine can. */
INLINE vec plus(vec c, vec a, vec b)
{
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return c + a * b;
#endif
}

typedef int integers __attribute__((vector_size(4 * LANES)));

INLINE vec choose(integers where, vec yes, vec no)
{
    return (vec)((where & (integers)yes) | (~where & (integers)no));
}

/* Numbers of two vectors, the second's counted on from those of the first. */
#if defined(__clang__)
INLINE vec shuffled(vec one, vec other, integers from)
{
    vec mixed;
    for (int n = 0; n < LANES; n++)
        mixed[n] = from[n] < LANES ? one[from[n]] : other[from[n] - LANES];
    return mixed;
}
#else
INLINE vec shuffled(vec one, vec other, integers from)
{
    return __builtin_shuffle(one, other, from);
}
#endif

/* The larger or smaller of each two numbers, `other` where one is no number. */
#if defined(__AVX512F__)
INLINE vec larger(vec one, vec other) { return (vec)_mm512_max_ps((__m512)one, (__m512)other); }
INLINE vec smaller(vec one, vec other) { return (vec)_mm512_min_ps((__m512)one, (__m512)other); }
#elif defined(__FMA__)
INLINE vec larger(vec one, vec other) { return (vec)_mm256_max_ps((__m256)one, (__m256)other); }
INLINE vec smaller(vec one, vec other) { return (vec)_mm256_min_ps((__m256)one, (__m256)other); }
#else
INLINE vec larger(vec one, vec other) { return choose(one > other, one, other); }
INLINE vec smaller(vec one, vec other) { return choose(one < other, one, other); }
#endif

/* The sum and the largest of all numbers of a vector. */
#if defined(__AVX512F__)
INLINE float total(vec value) { return _mm512_reduce_add_ps((__m512)value); }
INLINE float largest(vec value) { return _mm512_reduce_max_ps((__m512)value); }
#elif defined(__FMA__)
#define OVER_LANES(NAME, STEP) \
    INLINE float NAME(vec value) \
    { \
        const __m256 all = (__m256)value; \
        __m128 few = STEP##_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)); \
        few = STEP##_ps(few, _mm_movehl_ps(few, few)); \
        return _mm_cvtss_f32(STEP##_ss(few, _mm_movehdup_ps(few))); \
    }
OVER_LANES(total, _mm_add)
OVER_LANES(largest, _mm_max)
#else
INLINE float total(vec value)
{
    float sum = value[0];
    for (int n = 1; n < LANES; n++)
        sum += value[n];
    return sum;
}
INLINE float largest(vec value)
{
    float found = value[0];
    for (int n = 1; n < LANES; n++)
        found = value[n] > found ? value[n] : found;
    return found;
}
#endif

/* Rows and columns of a square change places: its upper half's rows are shuffled into those of its lower
   half, as often as LANES can be halved. */
INLINE void turn_square(vec square[LANES])
{
    integers low, high;
    for (int n = 0; n < LANES; n++) {
        low[n] = n / 2 + n % 2 * LANES;
        high[n] = low[n] + LANES / 2;
    }
    for (int size = 1; size < LANES; size *= 2) {
        vec mixed[LANES];
        for (int n = 0; n < LANES / 2; n++) {
            mixed[2 * n] = shuffled(square[n], square[n + LANES / 2], low);
            mixed[2 * n + 1] = shuffled(square[n], square[n + LANES / 2], high);
        }
        memcpy(square, mixed, sizeof mixed);
    }
}

static number least(number one, number other) { return one < other ? one : other; }
static number up(number value, number step) { return (value + step - 1) / step * step; }
