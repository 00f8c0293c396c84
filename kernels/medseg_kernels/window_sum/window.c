/* Windows added to sums over windows: sums += features * weight, counts += weight.

   A product is rounded before it is added (compile with -ffp-contract=off), and a sum once more
   where it is kept in 16 bits. What follows in memory is worked on together: voxels along k, or
   the channels of a voxel. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

enum kind { FLOAT32, FLOAT16, BFLOAT16 };
/* Numbers that are widened at a time. */
enum { RUN = 512 };

/* Numbers (channel, i, j, k) that lie `by` apart. */
typedef struct {
    void *first;
    int64_t by[4];
    int64_t kind;
} array;

typedef struct {
    array sums, counts, features, weight; /* counts and weight have one channel; it is float32 */
    int64_t channels, sides[3];
} call;

/* Whether 16-bit floats of a kind can be widened and narrowed as this is compiled. */
int knows(int64_t kind)
{
#if defined(__AVX512F__) || defined(__FLT16_MAX__)
    return kind <= BFLOAT16;
#else
    return kind != FLOAT16;
#endif
}

static int64_t size_of(enum kind kind) { return kind == FLOAT32 ? 4 : 2; }

static void *at(const array *a, int64_t channel, int64_t i, int64_t j, int64_t k)
{
    const int64_t place = channel * a->by[0] + i * a->by[1] + j * a->by[2] + k * a->by[3];
    return (char *)a->first + place * size_of((enum kind)a->kind);
}

/* ---- 16 bits ---- */

#if defined(__AVX512F__)
static void widen_float16(const uint16_t *restrict from, int64_t n, float *restrict to)
{
    for (int64_t v = 0; v < n; v += 16) {
        const int64_t left = n - v;
        const __mmask16 some = left < 16 ? (__mmask16)((1 << left) - 1) : 0xFFFF;
        __m256i half = _mm256_setzero_si256();
        if (left < 16)
            memcpy(&half, from + v, 2 * (size_t)left);
        else
            half = _mm256_loadu_si256((const void *)(from + v));
        _mm512_mask_storeu_ps(to + v, some, _mm512_cvtph_ps(half));
    }
}

static void narrow_float16(const float *restrict from, int64_t n, uint16_t *restrict to)
{
    for (int64_t v = 0; v < n; v += 16) {
        const int64_t left = n - v;
        const __mmask16 some = left < 16 ? (__mmask16)((1 << left) - 1) : 0xFFFF;
        const __m256i half = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(some, from + v), 0);
        if (left < 16)
            memcpy(to + v, &half, 2 * (size_t)left);
        else
            _mm256_storeu_si256((void *)(to + v), half);
    }
}
#elif defined(__FLT16_MAX__)
static void widen_float16(const uint16_t *restrict from, int64_t n, float *restrict to)
{
    for (int64_t v = 0; v < n; v++)
        to[v] = ((const _Float16 *)from)[v];
}

static void narrow_float16(const float *restrict from, int64_t n, uint16_t *restrict to)
{
    for (int64_t v = 0; v < n; v++)
        ((_Float16 *)to)[v] = (_Float16)from[v];
}
#else
/* Never called: knows() says so. */
static void widen_float16(const uint16_t *from, int64_t n, float *to)
{
    (void)from, (void)n, (void)to;
}

static void narrow_float16(const float *from, int64_t n, uint16_t *to)
{
    (void)from, (void)n, (void)to;
}
#endif

typedef union {
    float number;
    uint32_t bits;
} word;

static void widen_bfloat16(const uint16_t *restrict from, int64_t n, float *restrict to)
{
    for (int64_t v = 0; v < n; v++)
        to[v] = ((word){.bits = (uint32_t)from[v] << 16}).number;
}

/* To the nearest, of two the even one; what is no number stays none. */
static void narrow_bfloat16(const float *restrict from, int64_t n, uint16_t *restrict to)
{
    for (int64_t v = 0; v < n; v++) {
        const uint32_t bits = ((word){.number = from[v]}).bits;
        const uint32_t rounded = bits + 0x7FFF + (bits >> 16 & 1);
        const int is_none = (bits & 0x7FFFFFFF) > 0x7F800000;
        to[v] = (uint16_t)((is_none ? bits | 0x400000 : rounded) >> 16);
    }
}

/* n numbers that lie `by` apart, as float32 that follow each other. */
static void widen(const void *from, int64_t by, enum kind kind, int64_t n, float *restrict to)
{
    uint16_t together[RUN];
    const uint16_t *half = by == 1 ? from : together;
    if (kind == FLOAT32 && by == 1)
        memcpy(to, from, sizeof(float) * (size_t)n);
    for (int64_t v = 0; v < n && kind == FLOAT32 && by != 1; v++)
        to[v] = ((const float *)from)[v * by];
    for (int64_t v = 0; v < n && kind != FLOAT32 && by != 1; v++)
        together[v] = ((const uint16_t *)from)[v * by];
    if (kind == FLOAT16)
        widen_float16(half, n, to);
    if (kind == BFLOAT16)
        widen_bfloat16(half, n, to);
}

static void narrow(const float *restrict from, int64_t n, enum kind kind, int64_t by, void *to)
{
    uint16_t together[RUN];
    uint16_t *half = by == 1 ? to : together;
    if (kind == FLOAT16)
        narrow_float16(from, n, half);
    if (kind == BFLOAT16)
        narrow_bfloat16(from, n, half);
    for (int64_t v = 0; v < n && kind != FLOAT32 && by != 1; v++)
        ((uint16_t *)to)[v * by] = together[v];
    if (kind == FLOAT32 && by == 1)
        memcpy(to, from, sizeof(float) * (size_t)n);
    for (int64_t v = 0; v < n && kind == FLOAT32 && by != 1; v++)
        ((float *)to)[v * by] = from[v];
}

/* ---- sums ---- */

static void add_floats(float *restrict sums, const float *restrict x, const float *restrict weight,
                       int64_t n)
{
    for (int64_t v = 0; v < n; v++)
        sums[v] += x[v] * weight[v];
}

/* n voxels, each with `channels` that follow each other. */
static void add_voxels(float *restrict sums, int64_t by_sum, const float *restrict x, int64_t by_x,
                       const float *restrict weight, int64_t by_weight, int64_t n,
                       int64_t channels)
{
    for (int64_t v = 0; v < n; v++, sums += by_sum, x += by_x, weight += by_weight)
        for (int64_t c = 0; c < channels; c++)
            sums[c] += x[c] * *weight;
}

/* Any numbers: widened, added and narrowed. x is NULL for ones; a weight may stand for all. */
static void add_any(void *sums, int64_t by_sum, enum kind of_sum, const void *x, int64_t by_x,
                    enum kind of_x, const float *weight, int64_t by_weight, int64_t n)
{
    float s[RUN], f[RUN];
    for (int64_t low = 0; low < n; low += RUN) {
        const int64_t count = n - low < RUN ? n - low : RUN;
        char *here = (char *)sums + low * by_sum * size_of(of_sum);
        widen(here, by_sum, of_sum, count, s);
        if (x)
            widen((const char *)x + low * by_x * size_of(of_x), by_x, of_x, count, f);
        for (int64_t v = 0; v < count; v++) {
            const float w = weight[(low + v) * by_weight];
            s[v] += x ? f[v] * w : w;
        }
        narrow(s, count, of_sum, by_sum, here);
    }
}

/* A row of voxels whose channels follow each other. */
static void add_channels_last(const call *c, int64_t i, int64_t j)
{
    const array *sums = &c->sums, *x = &c->features;
    const float *w = at(&c->weight, 0, i, j, 0);
    const int64_t n = c->sides[2], by_weight = c->weight.by[3];
    if (sums->kind == FLOAT32 && x->kind == FLOAT32)
        add_voxels(at(sums, 0, i, j, 0), sums->by[3], at(x, 0, i, j, 0), x->by[3], w, by_weight, n,
                   c->channels);
    else
        for (int64_t v = 0; v < n; v++)
            add_any(at(sums, 0, i, j, v), 1, (enum kind)sums->kind, at(x, 0, i, j, v), 1,
                    (enum kind)x->kind, w + v * by_weight, 0, c->channels);
}

/* A row of voxels of one channel. */
static void add_row(const call *c, int64_t channel, int64_t i, int64_t j)
{
    const array *sums = &c->sums, *x = &c->features, *weight = &c->weight;
    void *here = at(sums, channel, i, j, 0);
    const void *values = at(x, channel, i, j, 0);
    const float *w = at(weight, 0, i, j, 0);
    const int are_floats = sums->kind == FLOAT32 && x->kind == FLOAT32;
    if (are_floats && sums->by[3] == 1 && x->by[3] == 1 && weight->by[3] == 1)
        add_floats(here, values, w, c->sides[2]);
    else
        add_any(here, sums->by[3], (enum kind)sums->kind, values, x->by[3], (enum kind)x->kind, w,
                weight->by[3], c->sides[2]);
}

/* The planes from low to before high. */
void add_window(const call *c, int64_t low, int64_t high)
{
    const array *counts = &c->counts;
    const int are_last = c->sums.by[0] == 1 && c->features.by[0] == 1 && c->channels > 1;
    for (int64_t i = low; i < high; i++) {
        for (int64_t j = 0; j < c->sides[1]; j++) {
            add_any(at(counts, 0, i, j, 0), counts->by[3], (enum kind)counts->kind, NULL, 0,
                    FLOAT32, at(&c->weight, 0, i, j, 0), c->weight.by[3], c->sides[2]);
            if (are_last)
                add_channels_last(c, i, j);
        }
        /* Channel by channel, so that few places of memory are read in turn. */
        for (int64_t f = 0; f < c->channels && !are_last; f++)
            for (int64_t j = 0; j < c->sides[1]; j++)
                add_row(c, f, i, j);
    }
}
