/* What rows become before they are multiplied by a matrix, and the way back. */

#include <math.h>
#include <string.h>

#include "../exponential.h"

/* Rows are normed over their numbers, by a gain and a shift for each, unless these are NULL; then GELU is
   taken of each number, where `gelu` is not 0. */
typedef struct {
    const float *gain, *shift;
    float eps;
    number gelu;
} Step;

static int is_step(const Step *step) { return step->gain || step->gelu; }

/* Where norms add up the gradients of gain and shift, where rows are written that took the step, NULL for
   nowhere, and room for a row. */
typedef struct {
    float *of_gain, *of_shift, *made, *line;
} Beside;

/* The next `left` numbers where there are not WHOLE vectors of them, zeros beyond them. */
INLINE vec take(const int WHOLE, const float *from, number left)
{
    vec value = {0};
    if (WHOLE || left >= LANES)
        return load(from);
    memcpy(&value, from, left * sizeof(float));
    return value;
}

INLINE void put(const int WHOLE, float *to, vec value, number left)
{
    if (WHOLE || left >= LANES)
        store(to, value);
    else
        memcpy(to, &value, left * sizeof(float));
}

/* How far these numbers are from the mean, times a factor; zeros beyond them. */
INLINE vec unit(const int WHOLE, const float *row, number left, float mean, float factor)
{
    integers place;
    const vec far = factor * (take(WHOLE, row, left) - mean);
    if (WHOLE || left >= LANES)
        return far;
    for (int n = 0; n < LANES; n++)
        place[n] = n;
    return choose(place < (int)left, far, splat(0));
}

/* Mean of a row, and one over its standard deviation. */
typedef struct {
    float mean, scale;
} Moments;

INLINE Moments moments(const int WHOLE, const float *row, number count, float eps)
{
    vec sum = splat(0), squares = splat(0);
    for (number d = 0; d < count; d += LANES)
        sum += take(WHOLE, row + d, count - d);
    const float mean = total(sum) / count;
    for (number d = 0; d < count; d += LANES) {
        const vec each = unit(WHOLE, row + d, count - d, mean, 1);
        squares = plus(squares, each, each);
    }
    return (Moments){mean, 1.0f / sqrtf(total(squares) / count + eps)};
}

INLINE void norm_row(const int WHOLE, const Step *step, const float *row, number count, float *to)
{
    const Moments m = moments(WHOLE, row, count, step->eps);
    for (number d = 0, left = count; left > 0; d += LANES, left -= LANES) {
        const vec each = unit(WHOLE, row + d, left, m.mean, m.scale);
        const vec shift = take(WHOLE, step->shift + d, left);
        put(WHOLE, to + d, plus(shift, take(WHOLE, step->gain + d, left), each), left);
    }
}

/* The gradient of a normed row becomes that of the row. */
INLINE void norm_row_back(
    const int WHOLE, const Step *step, const float *row, number count, float *gradient,
    const Beside *beside, float *made)
{
    const Moments m = moments(WHOLE, row, count, step->eps);
    vec sum = splat(0), along = splat(0);
    for (number d = 0, left = count; left > 0; d += LANES, left -= LANES) {
        float *of_gain = beside->of_gain + d, *of_shift = beside->of_shift + d;
        const vec given = take(WHOLE, gradient + d, left), gain = take(WHOLE, step->gain + d, left);
        const vec each = unit(WHOLE, row + d, left, m.mean, m.scale), slope = given * gain;
        put(WHOLE, of_gain, plus(take(WHOLE, of_gain, left), given, each), left);
        put(WHOLE, of_shift, take(WHOLE, of_shift, left) + given, left);
        if (made)
            put(WHOLE, made + d, plus(take(WHOLE, step->shift + d, left), gain, each), left);
        sum += slope;
        along = plus(along, slope, each);
    }
    const float mean = total(sum) / count, tilt = total(along) / count;
    for (number d = 0, left = count; left > 0; d += LANES, left -= LANES) {
        const vec each = unit(WHOLE, row + d, left, m.mean, m.scale);
        const vec slope = take(WHOLE, gradient + d, left) * take(WHOLE, step->gain + d, left);
        put(WHOLE, gradient + d, m.scale * (slope - mean - tilt * each), left);
    }
}

/* The distribution function of the normal distribution, to 1e-8, and its density:
   Phi(-z) = exp(-z^2 / 2) P(t) / 2 for z > 0 and t = 1 / (1 + 0.39 z / sqrt(2)), with a P whose largest
   error is least. */
typedef struct {
    vec below, density;
} Normal;

INLINE Normal normal(vec x)
{
    static const float terms[] = {0.886663503f, -0.63539887f, 0.649558261f, 0.0913888711f,
                                  0.235325146f};
    const vec size = larger(x, -x), t = 1.0f / (1.0f + 0.275771645f * size);
    const vec falls = power(-0.5f * x * x);
    vec sum = splat(-0.227536913f);
    for (int n = 0; n < 5; n++)
        sum = plus(splat(terms[n]), sum, t);
    const vec tail = 0.5f * falls * sum * t;
    return (Normal){choose(x > 0, 1.0f - tail, tail), 0.398942280f * falls};
}

INLINE void activate(const int WHOLE, const float *from, number left, float *to)
{
    const vec x = take(WHOLE, from, left);
    put(WHOLE, to, x * normal(x).below, left);
}

INLINE void activate_back(
    const int WHOLE, const float *from, number left, float *gradient, float *made)
{
    const vec x = take(WHOLE, from, left);
    const Normal at = normal(x);
    const vec slope = plus(at.below, x, at.density);
    put(WHOLE, gradient, take(WHOLE, gradient, left) * slope, left);
    if (made)
        put(WHOLE, made, x * at.below, left);
}

static void activate_all(const float *from, number count, float *to)
{
    const number whole = count / LANES * LANES;
    for (number n = 0; n < whole; n += LANES)
        activate(1, from + n, LANES, to + n);
    if (whole < count)
        activate(0, from + whole, count - whole, to + whole);
}

static void activate_all_back(const float *from, number count, float *gradient, float *made)
{
    const number whole = count / LANES * LANES;
    for (number n = 0; n < whole; n += LANES)
        activate_back(1, from + n, LANES, gradient + n, made ? made + n : NULL);
    if (whole < count)
        activate_back(0, from + whole, count - whole, gradient + whole, made ? made + whole : NULL);
}

/* So many rows, of `count` numbers, as they are multiplied. */
static void take_step(const Step *step, const float *rows, number count, number all, float *to)
{
    if (!step->gain) {
        activate_all(rows, all * count, to);
        return;
    }
    for (number n = 0; n < all * count; n += count) {
        if (count % LANES)
            norm_row(0, step, rows + n, count, to + n);
        else
            norm_row(1, step, rows + n, count, to + n);
        if (step->gelu)
            activate_all(to + n, count, to + n);
    }
}

/* The gradients of rows that took the step become those of the rows before it. */
static void step_back(
    const Step *step, const float *rows, number count, number all, float *gradients,
    const Beside *beside)
{
    if (!step->gain) {
        activate_all_back(rows, all * count, gradients, beside->made);
        return;
    }
    for (number n = 0; n < all * count; n += count) {
        float *made = beside->made ? beside->made + n : NULL;
        if (step->gelu) {
            if (count % LANES)
                norm_row(0, step, rows + n, count, beside->line);
            else
                norm_row(1, step, rows + n, count, beside->line);
            activate_all_back(beside->line, count, gradients + n, made);
            made = NULL;
        }
        if (count % LANES)
            norm_row_back(0, step, rows + n, count, gradients + n, beside, made);
        else
            norm_row_back(1, step, rows + n, count, gradients + n, beside, made);
    }
}
