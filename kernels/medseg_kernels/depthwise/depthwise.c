/* Convolutions of each channel by itself: maps lie channels last, and a vector holds some of them.

   A result at o is a sum over taps t of what is read at o * over + t * dilation - reach, a place of
   the map that is read with zeros between its voxels, which lie `under` apart there. With over a step
   and under 1 that is a convolution of that step, with under a step and over 1 its transpose.

   A line is one row along k of that place for the channels of one vector, side by side, zeros beyond
   both ends. The lines that a plane of the result needs stay in a core's cache for the next one, or,
   where they are too many, those that a row needs for the next row. */

#include <string.h>

#include "../vectors.h"

/* Voxels, and taps, that are summed at once, and floats of lines that stay. */
enum { TOGETHER = 8, MOST = 8, KEPT = 1 << 18 };

typedef struct {
    number from[3], to[3], channels; /* sizes of the map that is read and of the result */
    number side[3], dilation, over, under;
} Shape;

/* The lines of a vector of channels, from `at` on, that plane i of a result needs: there is room for so many
   planes of the map, and for so many rows of each, all of them or the last ones. `held` are the planes that
   are there whole, -1 for none. */
typedef struct {
    float *lines;
    number planes, rows, length, reach[3], *held;
    const Shape *shape;
    const float *item;
    number i, at, next;
} Lines;

/* A row of the kernel that meets the map: the line it reads, and its first tap. */
typedef struct {
    const float *from;
    number tap;
} Met;

static number taps(const Shape *s) { return s->side[0] * s->side[1] * s->side[2]; }
static number voxels(const number *size) { return size[0] * size[1] * size[2]; }

static Lines lines_of(const Shape *s, float *space)
{
    Lines made = {.lines = space, .shape = s};
    for (int axis = 0; axis < 3; axis++)
        made.reach[axis] = s->side[axis] / 2 * s->dilation;
    const number written = (s->from[2] - 1) * s->under + 1;
    const number read = (up(s->to[2], TOGETHER) - 1) * s->over + 1;
    made.length = (2 * made.reach[2] + (written > read ? written : read)) * LANES;
    made.planes = 2 * made.reach[0] / s->under + 1;
    made.rows = s->from[1];
    if (made.planes * made.rows * made.length > KEPT)
        made.rows = least(made.rows, 2 * made.reach[1] / s->under + 1);
    return made;
}

/* Whether planes find lines of the one before. */
static int are_kept(const Lines *l) { return l->planes > 1 && l->rows == l->shape->from[1]; }

/* The end of the planes from `first` on that are worked on before the next channels: they share lines. */
static number end_of(const Lines *l, number first, number end)
{
    const number all = l->shape->to[0];
    return least(end, are_kept(l) ? (first / all + 1) * all : first + 1);
}

static number lines_size(const Lines *l) { return l->planes * l->rows * l->length; }

static float *line(const Lines *l, number i, number j)
{
    return l->lines + (i % l->planes * l->rows + j % l->rows) * l->length;
}

/* The row or plane that stands at a place between zeros, or -1. */
static number standing(const Shape *s, int axis, number place)
{
    const number found = place / s->under;
    return place >= 0 && place % s->under == 0 && found < s->from[axis] ? found : -1;
}

/* The plane that tap `a` reads, or -1. */
static number plane(const Lines *l, number a)
{
    const Shape *s = l->shape;
    return standing(s, 0, l->i * s->over + a * s->dilation - l->reach[0]);
}

/* `count` voxels of one row, `apart` vectors from one to the next. Those of the row after the next are
   asked for, or each would be waited for: they lie far apart. */
static void copy(
    const float *from, number channels, number at, number count, number apart, float *to)
{
    const number across = least(LANES, channels - at);
    for (number k = 0; k < count; k++)
        __builtin_prefetch(from + (k + 2 * count) * channels + at);
    for (number k = 0; k < count; k++, to += apart * LANES)
        if (across == LANES)
            store(to, load(from + k * channels + at));
        else
            memcpy(to, from + k * channels + at, across * sizeof(float));
}

static void begin_item(Lines *l, const float *item, number at)
{
    l->item = item, l->at = at;
    for (number n = 0; n < l->planes; n++)
        l->held[n] = -1;
}

static void begin_plane(Lines *l, number i) { l->i = i, l->next = 0; }

static void end_plane(Lines *l)
{
    for (number a = 0; are_kept(l) && a < l->shape->side[0]; a++)
        if (plane(l, a) >= 0)
            l->held[plane(l, a) % l->planes] = plane(l, a);
}

/* Those of row j of the plane. */
static number meet(Lines *l, number j, Met *met)
{
    const Shape *s = l->shape;
    const number first = j * s->over - l->reach[1];
    number count = 0;
    for (; l->next <= j * s->over + l->reach[1]; l->next++)
        for (number a = 0; a < s->side[0]; a++) {
            const number i = plane(l, a), row = standing(s, 1, l->next);
            if (i >= 0 && row >= 0 && l->held[i % l->planes] != i)
                copy(
                    l->item + (i * s->from[1] + row) * s->from[2] * s->channels, s->channels, l->at,
                    s->from[2], s->under, line(l, i, row) + l->reach[2] * LANES);
        }
    for (number a = 0; a < s->side[0]; a++) {
        const number i = plane(l, a);
        for (number b = 0; b < s->side[1] && i >= 0; b++) {
            const number row = standing(s, 1, first + b * s->dilation);
            if (row >= 0)
                met[count++] = (Met){line(l, i, row), (a * s->side[1] + b) * s->side[2]};
        }
    }
    return count;
}

/* How many floats the lines and another one take; zeros at first. */
number space_size(const Shape *s)
{
    const Lines l = lines_of(s, NULL);
    return lines_size(&l) + l.length;
}

/* How many floats a packed kernel has. */
number packed_size(const Shape *s) { return taps(s) * up(s->channels, LANES); }

/* A kernel (channels, taps) as vectors of channels with a row for each tap, or the last tap first. */
void pack(const Shape *s, const float *weight, int turned, float *packed)
{
    for (number at = 0; at < s->channels; at += LANES)
        for (number tap = 0; tap < taps(s); tap++)
            for (number c = at; c < at + LANES; c++) {
                const number from = turned ? taps(s) - 1 - tap : tap;
                *packed++ = c < s->channels ? weight[c * taps(s) + from] : 0;
            }
}

/* Adds to the sums of voxels, `step` floats apart in their lines, what all taps give. */
INLINE void sum_voxels(
    const Shape *s, number step, const Met *met, number count, number first, const float *weight,
    vec *sums)
{
    const number apart = s->dilation * LANES;
    for (number n = 0; n < count; n++) {
        const float *voxel = met[n].from + first;
        const float *each = weight + met[n].tap * LANES;
        for (number d = 0; d < s->side[2]; d++, voxel += apart, each += LANES)
            for (int v = 0; v < TOGETHER; v++)
                sums[v] = plus(sums[v], load(voxel + v * step), load(each));
    }
}

/* Channels of plane i of the result. */
static void convolve_plane(Lines *l, number i, const float *weight, const float *start, float *to)
{
    const Shape *s = l->shape;
    const number channels = s->channels, step = s->over * LANES, across = least(LANES, channels - l->at);
    Met met[s->side[0] * s->side[1]];
    begin_plane(l, i);
    for (number j = 0; j < s->to[1]; j++) {
        const number count = meet(l, j, met);
        for (number k = 0; k < s->to[2]; k += TOGETHER) {
            vec sums[TOGETHER];
            for (int v = 0; v < TOGETHER; v++)
                sums[v] = load(start);
            if (step == LANES)
                sum_voxels(s, LANES, met, count, k * LANES, weight, sums);
            else
                sum_voxels(s, step, met, count, k * step, weight, sums);
            for (number v = 0; v < least(TOGETHER, s->to[2] - k); v++, to += channels)
                if (across == LANES)
                    store(to, sums[v]);
                else
                    memcpy(to, &sums[v], across * sizeof(float));
        }
    }
    end_plane(l);
}

/* Planes `begin` to `end` of the result, over the items of a batch; there may be no bias. */
void convolve(
    const Shape *s, const float *x, const float *packed, const float *bias, float *result, float *space,
    number begin, number end)
{
    const number channels = s->channels, plane = s->to[1] * s->to[2] * channels;
    Lines made = lines_of(s, space), *l = &made;
    number held[l->planes];
    l->held = held;
    for (number first = begin, last; first < end; first = last) {
        const number item = first / s->to[0];
        last = end_of(l, first, end);
        for (number at = 0; at < channels; at += LANES) {
            float start[LANES] = {0};
            if (bias)
                memcpy(start, bias + at, least(LANES, channels - at) * sizeof(float));
            begin_item(l, x + item * voxels(s->from) * channels, at);
            for (number unit = first; unit < last; unit++)
                convolve_plane(
                    l, unit % s->to[0], packed + at * taps(s), start, result + unit * plane + at);
        }
    }
}

/* Adds to `sums` what `count` voxels of a line, `step` floats apart, give to N taps that lie `apart`
   floats. */
INLINE void add_taps(
    const int N, const float *from, number step, const float *gradient, number count, number apart,
    float *sums)
{
    vec even[MOST], odd[MOST];
    for (int n = 0; n < N; n++)
        even[n] = load(sums + n * LANES), odd[n] = splat(0);
    for (number k = 0; k < count; k += 2, from += 2 * step, gradient += 2 * LANES) {
        const vec one = load(gradient), next = load(gradient + LANES);
        for (int n = 0; n < N; n++) {
            even[n] = plus(even[n], load(from + n * apart), one);
            odd[n] = plus(odd[n], load(from + n * apart + step), next);
        }
    }
    for (int n = 0; n < N; n++)
        store(sums + n * LANES, even[n] + odd[n]);
}

#define TAPS_CASE(N) \
    case N: \
        add_taps(N, from, step, gradient, count, apart, sums); \
        break;
static void add(
    number n, const float *from, number step, const float *gradient, number count, number apart,
    float *sums)
{
    switch (n) {
        TAPS_CASE(1)
        TAPS_CASE(2)
        TAPS_CASE(3)
        TAPS_CASE(4)
        TAPS_CASE(5)
        TAPS_CASE(6)
        TAPS_CASE(7)
        TAPS_CASE(8)
    }
}

/* Adds to `sums`, of the taps of some channels, what plane i of the result's gradient gives. */
static void add_plane(Lines *l, number i, const float *gradient, float *given, float *sums)
{
    const Shape *s = l->shape;
    const number apart = s->dilation * LANES, step = s->over * LANES;
    Met met[s->side[0] * s->side[1]];
    begin_plane(l, i);
    for (number j = 0; j < s->to[1]; j++, gradient += s->to[2] * s->channels) {
        const number lines = meet(l, j, met);
        copy(gradient, s->channels, l->at, s->to[2], 1, given);
        for (number n = 0; n < lines; n++)
            for (number d = 0; d < s->side[2]; d += MOST) {
                const float *from = met[n].from + d * apart;
                float *to = sums + (met[n].tap + d) * LANES;
                add(least(MOST, s->side[2] - d), from, step, given, s->to[2], apart, to);
            }
    }
    end_plane(l);
}

/* Adds to `sums`, a packed kernel, what planes `begin` to `end` of the result's gradient give;
   `plane_sums` holds those of one vector of channels. Nothing stands between the voxels of x. */
void weight_gradient(
    const Shape *s, const float *x, const float *gradient, float *sums, float *plane_sums, float *space,
    number begin, number end)
{
    const number channels = s->channels, plane = s->to[1] * s->to[2] * channels;
    Lines made = lines_of(s, space), *l = &made;
    number held[l->planes];
    l->held = held;
    for (number first = begin, last; first < end; first = last) {
        const number item = first / s->to[0];
        last = end_of(l, first, end);
        for (number at = 0; at < channels; at += LANES) {
            begin_item(l, x + item * voxels(s->from) * channels, at);
            for (number unit = first; unit < last; unit++) {
                memset(plane_sums, 0, taps(s) * LANES * sizeof(float));
                add_plane(
                    l, unit % s->to[0], gradient + unit * plane, space + lines_size(l), plane_sums);
                for (number n = 0; n < taps(s) * LANES; n++)
                    sums[at * taps(s) + n] += plane_sums[n];
            }
        }
    }
}

/* The kernel (channels, taps) from its sums. */
void unpack(const Shape *s, const float *sums, float *weight)
{
    for (number at = 0; at < s->channels; at += LANES)
        for (number tap = 0; tap < taps(s); tap++, sums += LANES)
            for (number c = at; c < least(at + LANES, s->channels); c++)
                weight[c * taps(s) + tap] = sums[c - at];
}
