/* Rows of numbers times a matrix. */

#include <stddef.h>
#include <string.h>

#include "../products.h"
#include "steps.h"

static number width(number columns) { return up(columns, LANES); }

static void prefetch(const float *from, number begin, number end)
{
    enum { LINE = 64 / sizeof(float) };
    for (number n = begin; n < end; n += LINE)
        __builtin_prefetch(from + n);
}

/* How many floats a packed matrix of `in` by `out` has. */
number packed_size(number in, number out) { return in * width(out); }

/* LANES numbers out by as many numbers in, of a matrix whose rows lie `out_apart` floats apart, often too
   far for a cache to hold a column of them; packed they are rows of a band `row` floats wide. */
static void pack_square(const float *weight, number out_apart, number row, float *packed)
{
    vec square[LANES];
    for (int n = 0; n < LANES; n++)
        square[n] = load(weight + n * out_apart);
    turn_square(square);
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

/* Rows that are multiplied by one band after the other while they are in a cache, and how many of their
   numbers at a time, so that a band is in it too. */
enum { NEAR = 64, DEPTH = 1024 };

static void copy_rows(
    const float *from, number from_apart, number rows, number count, float *to, number to_apart)
{
    for (number r = 0; r < rows; r++)
        memcpy(to + r * to_apart, from + r * from_apart, count * sizeof(float));
}

/* To up to NEAR rows of the product, what the numbers `begin` to `end` of the rows give is added; before
   the first they are the bias, or nothing. Of `next` the same numbers are read after them. */
static void multiply_part(
    const float *x, const float *next, number rows, number in, number begin, number end,
    const float *packed, const float *bias, number out, float *result)
{
    const number depth = end - begin;
    float start[BAND * LANES] = {0}, spare[ROWS * BAND * LANES]; /* for a band that is not whole */
    for (number at = 0, w; at < out; packed += in * w * LANES, at += w * LANES) {
        w = band((width(out) - at) / LANES);
        const number wide = w * LANES, across = least(wide, out - at);
        const float *b = packed + begin * wide;
        if (bias)
            memcpy(start, bias + at, across * sizeof(float));
        for (number row = 0; row < rows; row += ROWS) {
            const number some = least(ROWS, rows - row), spared = across < wide ? some : 0;
            float *to = result + row * out + at;
            Product p = {
                .a = x + row * in + begin, .b = b, .start = start, .next = b + in * wide,
                .to = spared ? spare : to, .depth = depth, .a_apart = in,
                .to_apart = spared ? wide : out};
            if (!at)
                prefetch(next + begin * rows, row * depth, (row + some) * depth);
            if (begin) {
                copy_rows(to, out, spared, across, spare, wide);
                p.start = p.to, p.start_apart = p.to_apart;
            }
            MULTIPLY[w](some, &p);
            copy_rows(spare, wide, spared, across, to, out);
        }
    }
}

/* Up to NEAR rows of the product. */
static void multiply_near(
    const float *x, const float *next, number rows, number in, const float *packed,
    const float *bias, number out, float *result)
{
    const number parts = (in + DEPTH - 1) / DEPTH;
    for (number part = 0; part < parts; part++)
        multiply_part(
            x, next, rows, in, in * part / parts, in * (part + 1) / parts, packed, bias, out, result);
}

/* As many rows as there are. */
static void multiply_all(
    const float *x, number rows, number in, const float *packed, const float *bias, number out,
    float *result)
{
    for (number row = 0; row < rows; row += NEAR)
        multiply_near(
            x + row * in, x + (row + NEAR) * in, least(NEAR, rows - row), in, packed, bias, out,
            result + row * out);
}

/* How many floats `multiply` works on, for rows of `in` numbers. */
number multiply_space(number in) { return NEAR * in; }

/* Rows `begin` to `end` of the product, of rows that take a step before. */
void multiply(
    const float *x, const Step *step, number in, const float *packed, const float *bias,
    number out, float *result, number begin, number end, float *space)
{
    if (!is_step(step)) {
        multiply_all(x + begin * in, end - begin, in, packed, bias, out, result + begin * out);
        return;
    }
    for (number first = begin; first < end; first += NEAR) {
        const float *from = x + first * in;
        const number rows = least(NEAR, end - first);
        take_step(step, from, in, rows, space);
        multiply_near(
            space, from + NEAR * in, rows, in, packed, bias, out, result + first * out);
    }
}

/* Rows that are summed in registers, and how often that is done before the sum is added to that of
   all, or rounding would add up. */
enum { SUMMED = 128, TIMES = 64 };

/* Sums are bands of numbers in, each with a row for each number out; `lines` is room for SUMMED rows of
   such a band. */
static void add_products(
    const float *x, const float *next_x, const float *gradient, number rows, number in, number out,
    float *sums, float *lines)
{
    const float *next_gradient = gradient + rows * out;
    const number steps = (out + ROWS - 1) / ROWS * (width(in) / LANES);
    number done = 0, w;
    for (number at = 0; at < in; sums += out * w * LANES, at += w * LANES) {
        w = band((width(in) - at) / LANES);
        const float *from = x + at;
        for (number r = 0; r < rows; r++, from += in)
            for (int n = 0; n < w; n++)
                store(lines + (r * w + n) * LANES, take(0, from + n * LANES, in - at - n * LANES));
        for (number n = 0; n < out; n += ROWS, done += w) {
            const Product p = {
                .a = gradient + n, .b = lines, .to = sums + n * w * LANES, .depth = rows,
                .a_apart = out, .b_apart = w * LANES};
            const number begin = rows * done / steps, end = rows * (done + w) / steps;
            prefetch(next_x, begin * in, end * in);
            prefetch(next_gradient, begin * out, end * out);
            ADD_TURNED[w](least(ROWS, out - n), &p);
        }
    }
}

/* What a product is differentiated into, NULL where that is not asked for: the rows, what they give for
   gain and then shift of a norm, the bias, and the matrix, as many sums as a packed one of `out` by `in`
   has. To all but the rows it is added. */
typedef struct {
    float *rows;
    double *of_norm, *of_bias;
    float *sums;
} Gradients;

/* To each of `count` sums, the numbers of so many rows below each other. */
static void add_rows(const float *from, number rows, number count, double *sums)
{
    for (number d = 0; d < count; d += LANES) {
        const number left = count - d;
        vec sum = splat(0);
        for (number r = 0; r < rows; r++)
            sum += take(0, from + r * count + d, left);
        for (number n = 0; n < least(LANES, left); n++)
            sums[d + n] += sum[n];
    }
}

/* How many floats `multiply_back` works on. */
number multiply_back_space(number in, number out)
{
    return packed_size(out, in) + (SUMMED + 3) * in + SUMMED * BAND * LANES;
}

/* The gradients of rows that took a step, where they are asked for, become those of rows before it, and
   `made` the rows after it, where the matrix needs them. */
static void steps_back(
    const Step *step, const float *x, number in, number rows, float *slope, double *of_norm,
    float *made, float *norm)
{
    const Beside beside = {norm, norm + in, made, norm + 2 * in};
    const number norms = step->gain ? 2 * in : 0;
    if (!slope) {
        take_step(step, x, in, rows, made);
        return;
    }
    memset(norm, 0, norms * sizeof(float));
    step_back(step, x, in, rows, slope, &beside);
    for (number n = 0; n < norms; n++)
        of_norm[n] += norm[n];
}

/* The gradients that rows `begin` to `end` give, of x that took a step and of the matrix, from
   those of the product and the matrix turned. */
void multiply_back(
    const float *x, const Step *step, const float *gradient, const float *packed, number in,
    number out, const Gradients *into, number begin, number end, float *space)
{
    float *few = space, *norm = few + packed_size(out, in), *made = norm + 3 * in;
    float *lines = made + SUMMED * in, *sums = into->sums;
    for (number first = begin; first < end; first += TIMES * SUMMED) {
        const number last = least(first + TIMES * SUMMED, end);
        const number apart = sums && first > begin ? packed_size(out, in) : 0;
        if (apart)
            sums = few;
        memset(few, 0, apart * sizeof(float));
        for (number row = first; row < last; row += SUMMED) {
            const float *from = x + row * in, *given = gradient + row * out;
            float *slope = into->rows ? into->rows + row * in : NULL;
            const number rows = least(SUMMED, last - row);
            const float *some = is_step(step) ? made : from;
            if (slope)
                multiply_all(given, rows, out, packed, NULL, in, slope);
            if (is_step(step) && (slope || sums))
                steps_back(step, from, in, rows, slope, into->of_norm, sums ? made : NULL, norm);
            if (into->of_bias)
                add_rows(given, rows, out, into->of_bias);
            if (sums)
                add_products(some, from + rows * in, given, rows, in, out, sums, lines);
        }
        for (number n = 0; n < apart; n++)
            into->sums[n] += few[n];
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
