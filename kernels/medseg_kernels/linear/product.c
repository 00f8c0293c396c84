/* Rows of numbers times a matrix. */

#include <stddef.h>
#include <string.h>

#include "../products.h"

static number width(number columns) { return up(columns, LANES); }

static void prefetch(const float *from, number begin, number end)
{
    enum { LINE = 64 / sizeof(float) };
    for (number n = begin; n < end; n += LINE)
        __builtin_prefetch(from + n);
}

/* How many floats a packed matrix of `in` by `out` has. */
number packed_size(number in, number out) { return in * width(out); }

/* Rows and columns of a square change places: its upper half's rows are shuffled into those of its lower
   half, as often as LANES can be halved. */
INLINE void turn(vec square[LANES])
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

/* LANES numbers out by as many numbers in, of a matrix whose rows lie `out_apart` floats apart, often too
   far for a cache to hold a column of them; packed they are rows of a band `row` floats wide. */
static void pack_square(const float *weight, number out_apart, number row, float *packed)
{
    vec square[LANES];
    for (int n = 0; n < LANES; n++)
        square[n] = load(weight + n * out_apart);
    turn(square);
    for (int n = 0; n < LANES; n++)
        store(packed + n * row, square[n]);
}

/* A matrix in bands of numbers out, each with a row for each number in. In memory the matrix goes
   `out_apart` floats from one number out to the next, and `in_apart` from one number in. */
void pack(
    const float *weight, number in, number out, number out_apart, number in_apart, float *packed)
{
    for (number at = 0, w; at < out; packed += in * w * LANES, at += w * LANES) {
        w = band((width(out) - at) / LANES);
        const number row = w * LANES, whole = at + row <= out;
        const number squares = whole && in_apart == 1 ? in / LANES * LANES : 0;
        for (number n = 0; n < row; n += LANES)
            for (number d = 0; d < squares; d += LANES)
                pack_square(weight + (at + n) * out_apart + d, out_apart, row, packed + d * row + n);
        for (number d = squares; d < in; d++)
            if (whole && out_apart == 1)
                for (number n = 0; n < row; n += LANES)
                    store(packed + d * row + n, load(weight + at + n + d * in_apart));
            else
                for (number n = 0; n < row; n++)
                    packed[d * row + n] =
                        at + n < out ? weight[(at + n) * out_apart + d * in_apart] : 0;
    }
}

/* Rows that are multiplied by one band after the other while they are in a cache. */
enum { NEAR = 64 };

/* Rows `begin` to `end` of the product; there may be no bias. */
void multiply(
    const float *x, number in, const float *packed, const float *bias, number out, float *result,
    number begin, number end)
{
    float start[BAND * LANES] = {0}, spare[ROWS * BAND * LANES];
    for (number first = begin; first < end; first += NEAR) {
        const float *b = packed;
        const number last = least(first + NEAR, end);
        for (number at = 0, w; at < out; b += in * w * LANES, at += w * LANES) {
            w = band((width(out) - at) / LANES);
            const number across = least(w * LANES, out - at);
            if (bias)
                memcpy(start, bias + at, across * sizeof(float));
            for (number row = first; row < last; row += ROWS) {
                const number rows = least(ROWS, last - row);
                float *to = result + row * out + at;
                Product p = {x + row * in, b, start, to, in, in, 0, out};
                if (!at)
                    prefetch(x + (row + NEAR) * in, 0, rows * in);
                if (across < w * LANES)
                    p.to = spare, p.to_apart = w * LANES;
                MULTIPLY[w](rows, &p);
                for (number r = 0; r < (p.to == spare ? rows : 0); r++)
                    memcpy(to + r * out, spare + r * w * LANES, across * sizeof(float));
            }
        }
    }
}

/* Rows that are summed in registers, and how often that is done before the sum is added to that of
   all, or rounding would add up. */
enum { SUMMED = 128, TIMES = 64 };

/* Sums are bands of numbers in, each with a row for each number out. */
static void add_products(
    const float *x, const float *gradient, number rows, number in, number out, float *sums)
{
    const float *next_x = x + rows * in, *next_gradient = gradient + rows * out;
    const number steps = (out + ROWS - 1) / ROWS * (width(in) / LANES);
    number done = 0, w;
    for (number at = 0; at < in; sums += out * w * LANES, at += w * LANES) {
        w = band((width(in) - at) / LANES);
        for (number n = 0; n < out; n += ROWS, done += w) {
            const Product p = {gradient + n, x + at, NULL, sums + n * w * LANES, rows, out, in, 0};
            const number begin = rows * done / steps, end = rows * (done + w) / steps;
            prefetch(next_x, begin * in, end * in);
            prefetch(next_gradient, begin * out, end * out);
            ADD_TURNED[w](least(ROWS, out - n), &p);
        }
    }
}

/* How many floats `weight_gradient` works on. */
number weight_gradient_space(number in, number out) { return packed_size(out, in) + width(in); }

/* Adds to `sums`, as many as a packed matrix of `out` by `in` has, what rows `begin` to `end` of
   `all` give. */
void weight_gradient(
    const float *x, const float *gradient, number in, number out, float *sums, number begin,
    number end, number all, float *space)
{
    const int apart = end == all && in % LANES; /* whole vectors of the last row go beyond it */
    float *few = space, *last_row = few + packed_size(out, in), *to = sums;
    for (number first = begin; first < end; first += TIMES * SUMMED, to = few) {
        const int is_last = first + TIMES * SUMMED >= end;
        const number last = is_last ? end - apart : first + TIMES * SUMMED;
        if (to == few)
            memset(few, 0, packed_size(out, in) * sizeof(float));
        for (number row = first; row < last; row += SUMMED)
            add_products(
                x + row * in, gradient + row * out, least(SUMMED, last - row), in, out, to);
        if (is_last && apart) {
            memcpy(last_row, x + last * in, in * sizeof(float));
            add_products(last_row, gradient + last * out, 1, in, out, to);
        }
        for (number n = 0; n < (to == few ? packed_size(out, in) : 0); n++)
            sums[n] += few[n];
    }
}

/* The matrix (out, in) from its sums. */
void unpack(const float *sums, number in, number out, float *weight)
{
    for (number at = 0, w; at < in; at += w * LANES) {
        w = band((width(in) - at) / LANES);
        for (number n = 0; n < out; n++, sums += w * LANES)
            memcpy(weight + n * in + at, sums, least(w * LANES, in - at) * sizeof(float));
    }
}
