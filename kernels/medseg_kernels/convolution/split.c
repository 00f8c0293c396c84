/* Convolutions in three dimensions, step 1, of maps that lie channels last, by AMX tiles.

   A float is taken as the sum of two bfloat16 numbers, and a product of two floats as three of their
   four products (the fourth is 2^-16 of the result), summed in float32. With parts == 1 only the
   first numbers are multiplied, which is bfloat16.

   A plane is kept with its border of zeros, and positions are counted through the borders: 16 of
   them follow each other whatever the size of the map, and a tap of the kernel is a distance. */

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)

#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef unsigned short half;
typedef long long number;

/* A tile: 16 rows of 32 bfloat16 numbers, or of 16 floats. */
enum { ROWS = 16, DEPTH = 32, TILE = ROWS * DEPTH };

/* Sizes of a map, channels into and out of it, and the kernel, odd along each axis. */
typedef struct {
    number i, j, k, in, out, a, b, c;
} Shape;

int ready(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* Others in this thread use tiles too: they find them as they left them. */
static void configure(void *before)
{
    struct {
        unsigned char palette, start, reserved[14];
        unsigned short bytes[16];
        unsigned char rows[16];
    } tiles = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        tiles.bytes[tile] = 64;
        tiles.rows[tile] = ROWS;
    }
    _tile_storeconfig(before);
    _tile_loadconfig(&tiles);
}

static void restore(const void *before)
{
    if (*(const char *)before)
        _tile_loadconfig(before);
    else
        _tile_release();
}

static number up(number value, number step) { return (value + step - 1) / step * step; }
static number least(number one, number other) { return one < other ? one : other; }
static number pitch(const Shape *s) { return s->k + s->c - 1; }
static number positions(const Shape *s) { return (s->j - 1) * pitch(s) + s->k; }
static number depths(const Shape *s) { return up(s->c * s->in, DEPTH) / DEPTH; }

static __mmask16 first(number count) { return count >= ROWS ? 0xffff : (1 << count) - 1; }

/* Floats as the nearest bfloat16 numbers, and as those nearest to what these leave. */
static inline void part(__m512 value, __m256i *high, __m256i *low)
{
    *high = (__m256i)_mm512_cvtneps_pbh(value);
    __m512 near = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(*high), 16));
    *low = (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(value, near));
}

/* Two rows of 16 numbers, the numbers of the same place together. */
static void put_pair(half *to, __m256i even, __m256i odd)
{
    _mm512_storeu_si512(
        to, _mm512_or_si512(
                _mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)));
}

/* ---- the map times the weight: 16 positions by 16 channels out a tile ---- */

/* Where a weight's numbers lie: one for channels out and in, and one along each axis of the kernel. */
typedef struct {
    number out, in, a, b, c;
} Strides;

/* How many bfloat16 numbers a packed weight has. */
number packed_size(const Shape *s) { return up(s->out, ROWS) / ROWS * s->a * s->b * depths(s) * 2 * TILE; }

/* Blocks `begin` to `end` of 16 channels out: for each row of the kernel, whose taps lie side by side
   with all their channels, so many tiles of first parts, each followed by that of second parts. */
void pack(const Shape *s, const float *weight, const Strides *apart, half *packed, number begin, number end)
{
    const number row = s->c * s->in, block = s->a * s->b * depths(s) * 2 * TILE;
    const __m512i each = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_set1_epi32((int)apart->out));
    for (number channel = begin; channel < end; channel++) {
        const __mmask16 some = first(s->out - channel * ROWS);
        half *tile = packed + channel * block;
        for (number run = 0; run < s->a * s->b; run++)
            for (number d = 0; d < depths(s); d++, tile += 2 * TILE)
                for (number pair = 0; pair < ROWS; pair++) {
                    __m256i near[2], rest[2];
                    for (int n = 0; n < 2; n++) {
                        const number k = d * DEPTH + 2 * pair + n;
                        const float *from = weight + channel * ROWS * apart->out + run / s->b * apart->a +
                                            run % s->b * apart->b;
                        if (k < row)
                            from += k / s->in * apart->c + k % s->in * apart->in;
                        part(
                            _mm512_mask_i32gather_ps(
                                _mm512_setzero_ps(), k < row ? some : 0, each, from, 4),
                            near + n, rest + n);
                    }
                    put_pair(tile + 2 * ROWS * pair, near[0], near[1]);
                    put_pair(tile + TILE + 2 * ROWS * pair, rest[0], rest[1]);
                }
    }
}

enum { CHUNK = 256, MOST_ROWS = 64 };

static number plane_size(const Shape *s)
{
    number bordered = (s->j + s->b - 1) * pitch(s) + MOST_ROWS + ROWS;
    return up(bordered * s->in + DEPTH, DEPTH);
}

/* How many bfloat16 numbers `convolve` works on; they are zeros at first. */
number convolve_space(const Shape *s) { return 2 * plane_size(s) * s->a; }

static void fill_plane(const Shape *s, const float *x, half *high, half *low)
{
    number row = s->k * s->in;
    for (number j = 0; j < s->j; j++) {
        number to = ((j + s->b / 2) * pitch(s) + s->c / 2) * s->in;
        for (number n = 0; n < row; n += ROWS) {
            __mmask16 some = first(row - n);
            __m256i near, rest;
            part(_mm512_maskz_loadu_ps(some, x + j * row + n), &near, &rest);
            _mm256_mask_storeu_epi16(high + to + n, some, near);
            _mm256_mask_storeu_epi16(low + to + n, some, rest);
        }
    }
}

typedef struct {
    const half *run[64]; /* where each row of the kernel begins for the first position, or NULL */
    number runs, depth;  /* rows of the kernel, and tiles of each */
    number row, low;     /* bytes from one position to the next; numbers from first parts to second */
    int parts;
} Sum;

#define LOAD_MAP(from) \
    _tile_loadd(4, from, s->row); \
    _tile_loadd(5, (from) + ROWS * s->row / sizeof(half), s->row)
#define LOAD_WEIGHTS(offset) \
    _tile_loadd(6, weight + (offset), 64); \
    _tile_loadd(7, weight + next + (offset), 64)
#define FOUR_PRODUCTS \
    _tile_dpbf16ps(0, 4, 6); \
    _tile_dpbf16ps(1, 4, 7); \
    _tile_dpbf16ps(2, 5, 6); \
    _tile_dpbf16ps(3, 5, 7)

/* 32 positions by 32 channels. */
static void sum_square(const Sum *s, const half *weight, number next, float *sums)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (number run = 0; run < s->runs; run++) {
        const half *map = s->run[run];
        if (!map) {
            weight += s->depth * 2 * TILE;
            continue;
        }
        for (number d = 0; d < s->depth; d++, map += DEPTH, weight += 2 * TILE) {
            LOAD_MAP(map);
            if (s->parts > 1) {
                LOAD_WEIGHTS(TILE);
                FOUR_PRODUCTS;
            }
            LOAD_WEIGHTS(0);
            FOUR_PRODUCTS;
            if (s->parts > 1) {
                LOAD_MAP(map + s->low);
                FOUR_PRODUCTS;
            }
        }
    }
    _tile_stored(0, sums, 128);
    _tile_stored(1, sums + ROWS, 128);
    _tile_stored(2, sums + ROWS * 32, 128);
    _tile_stored(3, sums + ROWS * 32 + ROWS, 128);
}

#define THREE_PRODUCTS(T) \
    do { \
        const half *rows = map + T * ROWS * s->row / sizeof(half); \
        _tile_loadd(4, rows, s->row); \
        _tile_dpbf16ps(T, 4, 6); \
        if (s->parts > 1) { \
            _tile_dpbf16ps(T, 4, 7); \
            _tile_loadd(5, rows + s->low, s->row); \
            _tile_dpbf16ps(T, 5, 6); \
        } \
    } while (0)

/* 64 positions by 16 channels. */
static void sum_column(const Sum *s, const half *weight, float *sums)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (number run = 0; run < s->runs; run++) {
        const half *map = s->run[run];
        if (!map) {
            weight += s->depth * 2 * TILE;
            continue;
        }
        for (number d = 0; d < s->depth; d++, map += DEPTH, weight += 2 * TILE) {
            _tile_loadd(6, weight, 64);
            if (s->parts > 1)
                _tile_loadd(7, weight + TILE, 64);
            THREE_PRODUCTS(0);
            THREE_PRODUCTS(1);
            THREE_PRODUCTS(2);
            THREE_PRODUCTS(3);
        }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + ROWS * ROWS, 64);
    _tile_stored(2, sums + 2 * ROWS * ROWS, 64);
    _tile_stored(3, sums + 3 * ROWS * ROWS, 64);
}

/* Sums of positions from `position` on, and the bias if there is one, to where the map has them. */
static void put(
    const Shape *s, const float *sums, const float *bias, number position, number rows, number channel,
    number across, float *plane)
{
    number j = position / pitch(s), k = position % pitch(s);
    for (number row = 0; row < rows && j < s->j; row++) {
        if (k < s->k)
            for (number n = 0; n < across; n += ROWS) {
                const __mmask16 some = first(least(s->out - channel - n, ROWS));
                __m512 sum = _mm512_loadu_ps(sums + row * across + n);
                if (bias)
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(some, bias + channel + n));
                _mm512_mask_storeu_ps(plane + (j * s->k + k) * s->out + channel + n, some, sum);
            }
        if (++k == pitch(s))
            k = 0, j++;
    }
}

/* Planes `begin` to `end` along i of the convolved map (i, j, k, out) of a map (i, j, k, in); there
   may be no bias. */
void convolve(
    const Shape *s, const float *x, const half *weight, const float *bias, int parts, float *result,
    number begin, number end, half *space)
{
    _Alignas(64) float sums[MOST_ROWS * 32];
    _Alignas(64) char before[64];
    const number size = plane_size(s), reach = s->a / 2, all = up(s->out, ROWS);
    const number next = s->a * s->b * depths(s) * 2 * TILE;
    Sum sum = {
        .runs = s->a * s->b, .depth = depths(s), .row = s->in * sizeof(half), .low = size, .parts = parts};
    number filled = begin - reach < 0 ? 0 : begin - reach;
    configure(before);
    for (number i = begin; i < end; i++) {
        for (; filled < least(i + reach + 1, s->i); filled++) {
            half *high = space + 2 * size * (filled % s->a);
            fill_plane(s, x + filled * s->j * s->k * s->in, high, high + size);
        }
        for (number from = 0; from < positions(s); from += CHUNK) {
            const number to = least(from + CHUNK, positions(s));
            for (number channel = 0; channel < all; channel += 2 * ROWS) {
                const int wide = channel + ROWS < all;
                const number rows = wide ? 32 : 64, across = wide ? 32 : 16;
                for (number n = from; n < to; n += rows) {
                    for (number run = 0; run < sum.runs; run++) {
                        const number plane = i + run / s->b - reach;
                        const number start = (n + run % s->b * pitch(s)) * s->in;
                        sum.run[run] = plane < 0 || plane >= s->i
                                           ? NULL
                                           : space + 2 * size * (plane % s->a) + start;
                    }
                    if (wide)
                        sum_square(&sum, weight + channel / ROWS * next, next, sums);
                    else
                        sum_column(&sum, weight + channel / ROWS * next, sums);
                    put(
                        s, sums, bias, n, least(rows, to - n), channel, across,
                        result + i * s->j * s->k * s->out);
                }
            }
        }
    }
    restore(before);
}

/* ---- the gradient of the weight: 16 channels in by 16 channels out a tile, summed over positions ---- */

/* A slab is some rows along j of a plane: so few that what is summed over them stays in a core's cache. */
static number slab_rows(const Shape *s)
{
    const number row = pitch(s) * (s->in * s->a + s->out);
    const number rows = (1 << 18) / row;
    return rows < 1 ? 1 : least(rows, s->j);
}

static number run_length(const Shape *s) { return up(slab_rows(s) * pitch(s), DEPTH); }

static number lines_pitch(const Shape *s)
{
    /* An odd number of cache lines, or the lines of a tile would share the same few places. */
    number whole = up(run_length(s) + (s->b - 1) * pitch(s) + s->c, DEPTH) / DEPTH;
    return (whole | 1) * DEPTH;
}

static number lines_size(const Shape *s) { return up(s->in, ROWS) * lines_pitch(s); }
static number pairs_size(const Shape *s) { return run_length(s) * up(s->out, ROWS); }

/* How many bfloat16 numbers `weight_gradient` works on; they are zeros at first. */
number weight_gradient_space(const Shape *s) { return 2 * (lines_size(s) * s->a + pairs_size(s)); }

/* A line for each channel: the slab's positions from row `from` on, borders included. */
static void fill_lines(const Shape *s, const float *plane, number from, half *high, half *low)
{
    const number line = lines_pitch(s);
    const __m512i apart = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(s->in));
    for (number row = 0; row < slab_rows(s) + s->b - 1; row++) {
        const number j = from + row - s->b / 2;
        const int inside = j >= 0 && j < s->j;
        for (number k = 0; k < s->k; k += ROWS) {
            const float *source = inside ? plane + (j * s->k + k) * s->in : plane;
            const number to = row * pitch(s) + s->c / 2 + k;
            const __mmask16 some = first(s->k - k), read = inside ? some : 0;
            for (number channel = 0; channel < s->in; channel++) {
                __m256i near, rest;
                part(
                    _mm512_mask_i32gather_ps(_mm512_setzero_ps(), read, apart, source + channel, 4), &near,
                    &rest);
                _mm256_mask_storeu_epi16(high + channel * line + to, some, near);
                _mm256_mask_storeu_epi16(low + channel * line + to, some, rest);
            }
        }
    }
}

/* Each two positions together, channel by channel; positions in the borders are zeros. */
static void fill_pairs(const Shape *s, const float *plane, number from, half *high, half *low)
{
    const number all = up(s->out, ROWS);
    number j = from, k = 0;
    for (number pair = 0; pair < run_length(s) / 2; pair++) {
        const float *source[2];
        for (int n = 0; n < 2; n++) {
            source[n] = j < least(from + slab_rows(s), s->j) && k < s->k ? plane + (j * s->k + k) * s->out : NULL;
            if (++k == pitch(s))
                k = 0, j++;
        }
        for (number channel = 0; channel < all; channel += ROWS) {
            __m256i near[2], rest[2];
            for (int n = 0; n < 2; n++)
                part(
                    source[n] ? _mm512_maskz_loadu_ps(first(s->out - channel), source[n] + channel)
                              : _mm512_setzero_ps(),
                    near + n, rest + n);
            put_pair(high + (pair * all + channel) * 2, near[0], near[1]);
            put_pair(low + (pair * all + channel) * 2, rest[0], rest[1]);
        }
    }
}

typedef struct {
    number line, pair;           /* numbers from one line, or pair of positions, to the next */
    number low_lines, low_pairs; /* from the first parts to the second */
    number width;                /* floats of a row of sums */
    int parts;
} Product;

enum { NEAR = 4 };

#define ADD_PRODUCTS(T) \
    do { \
        const half *rows = lines + T * ROWS * p->line; \
        _tile_loadd(4, rows, 2 * p->line); \
        _tile_dpbf16ps(T, 4, 6); \
        if (p->parts > 1) { \
            _tile_dpbf16ps(T, 4, 7); \
            _tile_loadd(5, rows + p->low_lines, 2 * p->line); \
            _tile_dpbf16ps(T, 5, 6); \
        } \
    } while (0)
#define EACH(DO, T) \
    if (down > T) \
    DO(T)
#define EACH_OF_FOUR(DO) \
    EACH(DO, 0); \
    EACH(DO, 1); \
    EACH(DO, 2); \
    EACH(DO, 3)
#define LOAD_SUMS(T) _tile_loadd(T, sums + T * ROWS * p->width, 4 * p->width)
#define STORE_SUMS(T) _tile_stored(T, sums + T * ROWS * p->width, 4 * p->width)

/* Adds the products of `down` <= 4 tiles of channels in and one of channels out. */
static inline __attribute__((always_inline)) void add_column(
    const int down, const Product *p, const half *lines, const half *pairs, number depth, float *sums)
{
    EACH_OF_FOUR(LOAD_SUMS);
    for (number d = 0; d < depth; d++, lines += DEPTH, pairs += DEPTH / 2 * p->pair) {
        _tile_loadd(6, pairs, 2 * p->pair);
        if (p->parts > 1)
            _tile_loadd(7, pairs + p->low_pairs, 2 * p->pair);
        EACH_OF_FOUR(ADD_PRODUCTS);
    }
    EACH_OF_FOUR(STORE_SUMS);
}

static void add_products(
    number down, const Product *p, const half *lines, const half *pairs, number depth, float *sums)
{
    switch (down) {
    case 1: add_column(1, p, lines, pairs, depth, sums); break;
    case 2: add_column(2, p, lines, pairs, depth, sums); break;
    case 3: add_column(3, p, lines, pairs, depth, sums); break;
    default: add_column(4, p, lines, pairs, depth, sums);
    }
}

/* Adds to `sums` (a, b, c, in, out), channels in multiples of 16, what planes `begin` to `end` of the
   gradient of the convolved map give. */
void weight_gradient(
    const Shape *s, const float *x, const float *gradient, int parts, float *sums, number begin,
    number end, half *space)
{
    _Alignas(64) char before[64];
    const number lines = lines_size(s), reach = s->a / 2, in = up(s->in, ROWS), out = up(s->out, ROWS);
    const number columns = up(in / ROWS, 4) / 4, down = up(in / ROWS, columns) / columns;
    const Product product = {lines_pitch(s), 2 * out, lines, pairs_size(s), out, parts};
    const number depth = run_length(s) / DEPTH;
    half *pairs = space + 2 * lines * s->a;
    configure(before);
    for (number from = 0; from < s->j; from += slab_rows(s)) {
        number filled = begin - reach < 0 ? 0 : begin - reach;
        for (number i = begin; i < end; i++) {
            for (; filled < least(i + reach + 1, s->i); filled++) {
                half *high = space + 2 * lines * (filled % s->a);
                fill_lines(s, x + filled * s->j * s->k * s->in, from, high, high + lines);
            }
            fill_pairs(s, gradient + i * s->j * s->k * s->out, from, pairs, pairs + pairs_size(s));
            for (number run = 0; run < s->a * s->b; run++) {
                const number plane = i + run / s->b - reach;
                if (plane < 0 || plane >= s->i)
                    continue;
                const half *map = space + 2 * lines * (plane % s->a) + run % s->b * pitch(s);
                for (number m = 0; m < in; m += down * ROWS)
                    for (number n = 0; n < out; n += ROWS)
                        for (number d = 0; d < depth; d += NEAR)
                            for (number c = 0; c < s->c; c++)
                                add_products(
                                    least(down, (in - m) / ROWS), &product,
                                    map + m * lines_pitch(s) + d * DEPTH + c,
                                    pairs + d * DEPTH * out + 2 * n, least(NEAR, depth - d),
                                    sums + ((run * s->c + c) * in + m) * out + n);
            }
        }
    }
    restore(before);
}

#else

int ready(void) { return 0; }

#endif
