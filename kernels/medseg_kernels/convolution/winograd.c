/* Convolutions in three dimensions, step 1, of maps that lie channels last, by minimal filtering
   (Winograd 1980; Lavin and Gray, arXiv 1509.09308).

   Outputs are made in tiles of up to 4x4x4. Along each axis, what a tile reads and the kernel are
   taken for polynomials and evaluated at 6 points (4 for a tile of 2). At each of the 216 points in
   space the channels are mixed by a product of matrices, tiles x in by in x out, and the tile's
   outputs are interpolated from these: 8 times fewer multiplications than 27 for each voxel.

   A map goes through its transform one axis after the other, and each time along its memory: rows
   of voxels with all their channels are added to each other, whatever lies in them. */

#include <stddef.h>
#include <string.h>

#include "../products.h"
#include "transforms.h"

/* ---- tiles ---- */

/* Sizes of a map and of a kernel, outputs of a tile along each axis; channels into and out of the
   map, and `out_apart` floats from one voxel of the result to the next; tiles of a block, which are
   multiplied at once. */
typedef struct {
    number size[3], kernel[3], tile[3], in, out, out_apart, block;
} Shape;

/* How a map is cut: its transform along each axis, how many rows of it a tile has there, and how
   many of these lie before the tile's place; channels, and floats from one voxel to the next. */
typedef struct {
    int kind[3];
    number rows[3], before[3], channels, apart;
} Cut;

static number most(number one, number other) { return one > other ? one : other; }

static int kind_along(const Shape *s, int axis, int two, int four)
{
    return s->kernel[axis] == 1 ? SAME : s->tile[axis] == 2 ? two : four;
}

static Cut cut_map(const Shape *s)
{
    Cut c = {.channels = s->in, .apart = s->in};
    for (int axis = 0; axis < 3; axis++) {
        c.kind[axis] = kind_along(s, axis, READ2, READ4);
        c.rows[axis] = ROWS_FROM[c.kind[axis]];
        c.before[axis] = s->kernel[axis] / 2;
    }
    return c;
}

/* Of the result, or of its gradient. */
static Cut cut_result(const Shape *s, int two, int four)
{
    Cut c = {.channels = s->out, .apart = s->out_apart};
    for (int axis = 0; axis < 3; axis++) {
        c.kind[axis] = kind_along(s, axis, two, four);
        c.rows[axis] = s->tile[axis];
    }
    return c;
}

static number points_along(const Shape *s, int axis) { return s->tile[axis] + s->kernel[axis] - 1; }
static number tiles_along(const Shape *s, int axis)
{
    return (s->size[axis] + s->tile[axis] - 1) / s->tile[axis];
}

/* How many tiles a map has. */
number count_tiles(const Shape *s)
{
    return tiles_along(s, 0) * tiles_along(s, 1) * tiles_along(s, 2);
}

/* Tiles of a block that follow each other along the last axis: their place, how many they are, and
   the first one's number in the block. */
typedef struct {
    number at[3], tiles, tile;
} Run;

enum { MOST_BLOCK = 64 };

typedef struct {
    Run runs[MOST_BLOCK];
    number count, tiles;
} Block;

static number width(number channels) { return up(channels, LANES); }
static number widest(const Shape *s) { return most(s->in, s->out); }

/* A line holds the block's runs along the last axis, one after the other. There is one for each
   point along the second axis, a plane, and as many planes as points along the first. */
static number line_size(const Shape *s)
{
    return up(s->block * points_along(s, 2) * widest(s), LANES) + LANES;
}
static number plane_size(const Shape *s) { return points_along(s, 1) * line_size(s); }
static number planes_size(const Shape *s) { return points_along(s, 0) * plane_size(s); }

/* A slot has a row of channels for each tile of a block, all at one point. */
static number slot_size(const Shape *s) { return s->block * width(widest(s)) + LANES; }
static number slots_size(const Shape *s) { return points_along(s, 2) * slot_size(s); }

/* Tiles from `begin` on and before `end`, as many of them as a block holds. */
static void fill_block(const Shape *s, number begin, number end, Block *block)
{
    const number along = tiles_along(s, 2), across = tiles_along(s, 1);
    block->count = 0, block->tiles = least(s->block, end - begin);
    for (number done = 0; done < block->tiles; block->count++) {
        const number tile = begin + done;
        Run *run = block->runs + block->count;
        run->at[0] = tile / along / across * s->tile[0];
        run->at[1] = tile / along % across * s->tile[1];
        run->at[2] = tile % along * s->tile[2];
        run->tile = done;
        run->tiles = least(block->tiles - done, along - tile % along);
        done += run->tiles;
    }
}

/* Where a run begins in a line. */
static number column(const Shape *s, const Cut *c, const Block *block, number run)
{
    const number shared = c->rows[2] - s->tile[2];
    return (block->runs[run].tile * s->tile[2] + run * shared) * c->channels;
}

static void copy_voxels(
    const float *from, number from_apart, float *to, number to_apart, number channels, number count)
{
    for (number v = 0; v < count; v++)
        memcpy(to + v * to_apart, from + v * from_apart, channels * sizeof(float));
}

/* A run's lines from a map: of the points along the first axis, along the second as it is. */
static void read_run(
    const Shape *s, const Cut *c, const float *map, const Run *run, float *lines, float *spare)
{
    const number line = line_size(s), plane = s->size[1] * s->size[2] * c->apart;
    const number at = run->at[0] - c->before[0], first = run->at[2] - c->before[2];
    const number last = first + (run->tiles - 1) * s->tile[2] + c->rows[2];
    const number begin = most(first, 0), end = least(last, s->size[2]);
    const number count = (end - begin) * c->channels, skipped = (begin - first) * c->channels;
    const number all = (last - first) * c->channels;
    const int whole = at >= 0 && at + c->rows[0] <= s->size[0] && c->apart == c->channels;
    for (number j = 0; j < c->rows[1]; j++, lines += line) {
        const number at_j = run->at[1] - c->before[1] + j;
        const int inside = at_j >= 0 && at_j < s->size[1];
        if (!inside || count < all)
            for (number i = 0; i < points_along(s, 0); i++)
                memset(lines + i * plane_size(s), 0, all * sizeof(float));
        if (!inside)
            continue;
        const float *from = map + at * plane + (at_j * s->size[2] + begin) * c->apart;
        Rows rows = {from, lines + skipped, plane, plane_size(s), 1, 0, 0, NULL};
        if (!whole) {
            rows.from = spare, rows.from_apart = line;
            for (number i = 0; i < c->rows[0]; i++)
                if (at + i >= 0 && at + i < s->size[0])
                    copy_voxels(
                        from + i * plane, c->apart, spare + i * line, c->channels, c->channels,
                        end - begin);
                else
                    memset(spare + i * line, 0, count * sizeof(float));
        }
        transform_exactly(c->kind[0], &rows, count);
    }
}

/* A run's outputs from its lines of the points along the first axis. */
static void write_run(
    const Shape *s, const Cut *c, const float *lines, const Run *run, const float *bias, float *map,
    float *spare)
{
    const number line = line_size(s), plane = s->size[1] * s->size[2] * c->apart;
    const number voxels = least(run->tiles * s->tile[2], s->size[2] - run->at[2]);
    const number planes = least(c->rows[0], s->size[0] - run->at[0]);
    const int whole = planes == c->rows[0] && c->apart == c->channels;
    for (number j = 0; j < least(c->rows[1], s->size[1] - run->at[1]); j++, lines += line) {
        const number row = run->at[0] * s->size[1] + run->at[1] + j;
        float *to = map + (row * s->size[2] + run->at[2]) * c->apart;
        const Rows rows = {
            lines, whole ? to : spare, plane_size(s), whole ? plane : line, 1, 0, 0, bias};
        transform_exactly(c->kind[0], &rows, voxels * c->channels);
        for (number i = 0; i < (whole ? 0 : planes); i++)
            copy_voxels(
                spare + i * line, c->channels, to + i * plane, c->apart, c->channels, voxels);
    }
}

/* A plane's lines from those along the second axis as it is, or back. */
static void transform_across(const Shape *s, const Cut *c, float *plane)
{
    const Rows rows = {plane, plane, line_size(s), line_size(s), 1, 0, 0, NULL};
    transform(c->kind[1], &rows, line_size(s));
}

/* A line's values at the points along the last axis, each point's to a slot of its own. */
static void fill_slots(
    const Shape *s, const Cut *c, const Block *block, const float *line, float *slots)
{
    const number row = width(c->channels), step = s->tile[2] * c->channels;
    for (number run = 0; run < block->count; run++) {
        const Run *r = block->runs + run;
        const Rows rows = {
            line + column(s, c, block, run), slots + r->tile * row, c->channels, slot_size(s),
            r->tiles, step, row, NULL};
        transform(c->kind[2], &rows, row);
    }
}

/* A line of outputs from their values in the slots. */
static void empty_slots(
    const Shape *s, const Cut *c, const Block *block, const float *slots, float *line)
{
    const number row = width(c->channels), step = s->tile[2] * c->channels;
    const Rows rows = {slots, line, slot_size(s), c->channels, block->tiles, row, step, NULL};
    transform(c->kind[2], &rows, row);
}

/* ---- the convolution ---- */

/* Floats of a packed weight at one point: for each band of channels out, a row of it for each
   channel in. They are an odd number of vectors, or all points would compete for the same places of
   a cache. */
static number point_size(const Shape *s)
{
    return s->in * width(s->out) + (s->in * width(s->out) / LANES % 2 ? 0 : LANES);
}

/* Each slot but the first times its part of a packed weight, into the slot before it. */
static void multiply_slots(const Shape *s, float *slots, const float *weight, number tiles)
{
    const number in = width(s->in), out = width(s->out);
    for (number point = 0; point < points_along(s, 2); point++, slots += slot_size(s)) {
        const float *b = weight + point * point_size(s);
        for (number at = 0, w; at < out; at += w * LANES, b += s->in * w * LANES) {
            w = band((out - at) / LANES);
            for (number row = 0; row < tiles; row += ROWS) {
                const float *a = slots + slot_size(s) + row * in;
                const Product p = {
                    .a = a, .b = b, .start = ZEROS, .next = b + s->in * w * LANES,
                    .to = slots + row * out + at, .depth = s->in, .a_apart = in, .to_apart = out};
                MULTIPLY[w](least(ROWS, tiles - row), &p);
            }
        }
    }
}

/* How many floats `convolve` works on. */
number convolve_space(const Shape *s)
{
    return planes_size(s) + slots_size(s) + slot_size(s) + (MOST + 1) * line_size(s);
}

/* Tiles `begin` to `end` of the convolved map (i, j, k, out) of a map (i, j, k, in); there may be
   no bias. */
void convolve(
    const Shape *s, const float *x, const float *weight, const float *bias, float *result,
    number begin, number end, float *space)
{
    const Cut in = cut_map(s), out = cut_result(s, WRITE2, WRITE4);
    float *planes = space, *slots = planes + planes_size(s);
    float *spare = slots + slots_size(s) + slot_size(s), *biases = spare + MOST * line_size(s);
    for (number n = 0; bias && n < line_size(s); n++)
        biases[n] = bias[n % s->out];
    Block block;
    for (number tile = begin; tile < end; tile += block.tiles) {
        const float *part = weight;
        fill_block(s, tile, end, &block);
        for (number run = 0; run < block.count; run++)
            read_run(s, &in, x, block.runs + run, planes + column(s, &in, &block, run), spare);
        for (float *plane = planes; plane < slots; plane += plane_size(s)) {
            transform_across(s, &in, plane);
            for (float *line = plane; line < plane + plane_size(s); line += line_size(s)) {
                fill_slots(s, &in, &block, line, slots + slot_size(s));
                multiply_slots(s, slots, part, block.tiles);
                empty_slots(s, &out, &block, slots, line);
                part += points_along(s, 2) * point_size(s);
            }
            transform_across(s, &out, plane);
        }
        for (number run = 0; run < block.count; run++)
            write_run(
                s, &out, planes + column(s, &out, &block, run), block.runs + run,
                bias ? biases : NULL, result, spare);
    }
}

/* ---- the gradient of the weight ---- */

/* How many floats a packed weight has. */
number packed_size(const Shape *s)
{
    return points_along(s, 0) * points_along(s, 1) * points_along(s, 2) * point_size(s);
}

/* To sums that lie as a packed weight does, what the slots of a map and of a gradient give. */
static void add_products(
    const Shape *s, const float *map, const float *gradient, number tiles, float *sums)
{
    const number in = width(s->in), out = width(s->out), slot = slot_size(s);
    for (number point = 0; point < points_along(s, 2); point++, map += slot, gradient += slot) {
        float *to = sums + point * point_size(s);
        for (number at = 0, w; at < out; at += w * LANES, to += s->in * w * LANES) {
            w = band((out - at) / LANES);
            for (number row = 0; row < s->in; row += ROWS) {
                const Product p = {
                    .a = map + row, .b = gradient + at, .to = to + row * w * LANES, .depth = tiles,
                    .a_apart = in, .b_apart = out};
                ADD_TURNED[w](least(ROWS, s->in - row), &p);
            }
        }
    }
}

/* How many floats `weight_gradient` works on. */
number weight_gradient_space(const Shape *s)
{
    return 2 * (planes_size(s) + slots_size(s)) + MOST * line_size(s) + packed_size(s);
}

/* Tiles that are summed before their sum is added to that of all, or rounding would add up. */
enum { SUMMED = 1024 };

/* Adds to `sums`, which lie as a packed weight does, what tiles `begin` to `end` of a map and of
   the gradient of the convolved map give. */
void weight_gradient(
    const Shape *s, const float *x, const float *gradient, float *sums, number begin, number end,
    float *space)
{
    const Cut of_x = cut_map(s), of_result = cut_result(s, SPREAD2, SPREAD4);
    float *maps = space, *slopes = maps + planes_size(s), *slots = slopes + planes_size(s);
    float *slope_slots = slots + slots_size(s), *spare = slope_slots + slots_size(s);
    float *few = spare + MOST * line_size(s), *now = sums;
    number summed = 0;
    Block block;
    for (number tile = begin; tile < end; tile += block.tiles) {
        float *part = now;
        fill_block(s, tile, end, &block);
        for (number run = 0; run < block.count; run++) {
            const Run *r = block.runs + run;
            read_run(s, &of_x, x, r, maps + column(s, &of_x, &block, run), spare);
            read_run(
                s, &of_result, gradient, r, slopes + column(s, &of_result, &block, run), spare);
        }
        for (number plane = 0; plane < planes_size(s); plane += plane_size(s)) {
            transform_across(s, &of_x, maps + plane);
            transform_across(s, &of_result, slopes + plane);
            for (number line = plane; line < plane + plane_size(s); line += line_size(s)) {
                fill_slots(s, &of_x, &block, maps + line, slots);
                fill_slots(s, &of_result, &block, slopes + line, slope_slots);
                add_products(s, slots, slope_slots, block.tiles, part);
                part += points_along(s, 2) * point_size(s);
            }
        }
        summed += block.tiles;
        if (summed < SUMMED && tile + block.tiles < end)
            continue;
        for (number n = 0; n < (now == few ? packed_size(s) : 0); n++)
            sums[n] += few[n];
        if (tile + block.tiles < end)
            memset(few, 0, packed_size(s) * sizeof(float));
        now = few, summed = 0;
    }
}

/* ---- the weight ---- */

/* Where a weight's numbers lie: from one channel out to the next, and in, and along each axis. */
typedef struct {
    number out, in, along[3];
} Strides;

/* Kernels of one channel in and a vector of channels out: as they are, and with points in the place
   of taps along one axis, and along two. */
typedef struct {
    float none[TAPS * TAPS * TAPS * LANES], one[MOST * TAPS * TAPS * LANES];
    float two[MOST * MOST * TAPS * LANES];
} Kernels;

static void pack_kernels(const Shape *s, Kernels *k, float *packed)
{
    const number row = s->kernel[2] * LANES, plane = s->kernel[1] * row, a = points_along(s, 0);
    const number b = points_along(s, 1), point = point_size(s), line = points_along(s, 2) * point;
    const Rows first = {k->none, k->one, plane, plane, 1, 0, 0, NULL};
    const Rows second = {k->one, k->two, row, row, a, plane, b * row, NULL};
    const Rows third = {k->two, packed, LANES, point, a * b, row, line, NULL};
    transform(kind_along(s, 0, KERNEL2, KERNEL4), &first, plane);
    transform(kind_along(s, 1, KERNEL2, KERNEL4), &second, row);
    transform(kind_along(s, 2, KERNEL2, KERNEL4), &third, LANES);
}

static void gather_kernels(const Shape *s, Kernels *k, const float *packed)
{
    const number row = s->kernel[2] * LANES, plane = s->kernel[1] * row, a = points_along(s, 0);
    const number b = points_along(s, 1), point = point_size(s), line = points_along(s, 2) * point;
    const Rows third = {packed, k->two, point, LANES, a * b, line, row, NULL};
    const Rows second = {k->two, k->one, row, row, a, b * row, plane, NULL};
    const Rows first = {k->one, k->none, plane, plane, 1, 0, 0, NULL};
    transform(kind_along(s, 2, GATHER2, GATHER4), &third, LANES);
    transform(kind_along(s, 1, GATHER2, GATHER4), &second, row);
    transform(kind_along(s, 0, GATHER2, GATHER4), &first, plane);
}

/* Where each tap of a kernel lies; how many there are. */
static number place_taps(const Shape *s, const Strides *apart, number *places)
{
    number taps = 0;
    for (number i = 0; i < s->kernel[0]; i++)
        for (number j = 0; j < s->kernel[1]; j++)
            for (number k = 0; k < s->kernel[2]; k++)
                places[taps++] = i * apart->along[0] + j * apart->along[1] + k * apart->along[2];
    return taps;
}

/* What is wanted soon of all points lies too far apart for the machine to foresee it. */
static void prefetch_points(const Shape *s, const float *at)
{
    for (const float *end = at + packed_size(s); at < end; at += point_size(s))
        __builtin_prefetch(at);
}

/* One number after the other: GCC would gather them as vectors, which takes longer. */
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("no-tree-vectorize")))
#endif
static void copy_taps(const float *from, const number *places, number taps, float *to)
{
    for (number tap = 0; tap < taps; tap++)
        to[tap * LANES] = from[places[tap]];
}

/* Channels in `begin` to `end` of the packed weight. */
void pack(
    const Shape *s, const float *weight, const Strides *apart, float *packed, number begin,
    number end)
{
    number places[TAPS * TAPS * TAPS], w;
    const number taps = place_taps(s, apart, places);
    Kernels k = {{0}, {0}, {0}};
    for (number at = 0; at < width(s->out); at += w * LANES) {
        w = band((width(s->out) - at) / LANES);
        for (number in = begin; in < end; in++)
            for (number out = at; out < at + w * LANES; out += LANES) {
                const float *from = weight + out * apart->out + in * apart->in;
                float *to = packed + at * s->in + in * w * LANES + out - at;
                prefetch_points(s, to);
                for (number lane = 0; lane < least(LANES, s->out - out); lane++)
                    copy_taps(from + lane * apart->out, places, taps, k.none + lane);
                pack_kernels(s, &k, to);
            }
    }
}

/* Channels in `begin` to `end` of the weight's gradient, whose sums lie as a packed weight does. */
void unpack(
    const Shape *s, const float *sums, const Strides *apart, float *weight, number begin,
    number end)
{
    number places[TAPS * TAPS * TAPS], w;
    const number taps = place_taps(s, apart, places);
    Kernels k;
    for (number at = 0; at < width(s->out); at += w * LANES) {
        w = band((width(s->out) - at) / LANES);
        for (number in = begin; in < end; in++)
            for (number out = at; out < at + w * LANES; out += LANES) {
                const float *from = sums + at * s->in + in * w * LANES + out - at;
                prefetch_points(s, from + LANES);
                gather_kernels(s, &k, from);
                for (number lane = 0; lane < least(LANES, s->out - out); lane++) {
                    float *to = weight + (out + lane) * apart->out + in * apart->in;
                    for (number tap = 0; tap < taps; tap++)
                        to[places[tap]] = k.none[tap * LANES + lane];
                }
            }
    }
}
