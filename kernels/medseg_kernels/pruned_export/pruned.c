/* The pruned export of pruned.py for one thread of a CPU.

   Interpolation is a * (1 - t) + b * t along k, then j, then i, in float32 and without contraction
   (compile with -ffp-contract=off), so that not a bit differs from reference.py.

   The target is worked out in boxes, so that what is held beside the logits stays small, and a box
   in tiles, so that it stays in a core's cache. A class is mixed at all voxels of a tile at once,
   row by row; the winners of the source voxels say which classes are worth it. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "work.h"

#include "means.h"
#include "mix.h"

/* What it costs to compare a class at a voxel alone, where one of a whole tile costs 1. */
enum { ALONE = 32 };
/* Where winners helped nowhere in a box, so many boxes after it do without. */
enum { BOXES_UNASKED = 7 };

/* The first of the largest class of n voxels and, if `both`, the second largest logit. */
static inline __attribute__((always_inline)) void compare(
    const float *logits, int64_t by_class, int64_t classes, int64_t n, int both,
    uint16_t *restrict winner, float *restrict second)
{
    float best[RUN];
    int32_t first[RUN];
    for (int64_t v = 0; v < n; v++)
        best[v] = logits[v], first[v] = 0;
    for (int64_t v = 0; v < n && both; v++)
        second[v] = -__builtin_inff();
    for (int32_t c = 1; c < classes; c++) {
        const float *values = logits + c * by_class;
        for (int64_t v = 0; v < n; v++) {
            const float x = values[v];
            const int wins = x > best[v];
            const float lesser = wins ? best[v] : x;
            if (both)
                second[v] = lesser > second[v] ? lesser : second[v];
            first[v] = wins ? c : first[v];
            best[v] = wins ? x : best[v];
        }
    }
    for (int64_t v = 0; v < n; v++)
        winner[v] = (uint16_t)first[v];
}

static void find_winners(work *w)
{
    const int64_t width = sources(&w->box[2]), rows = sources(&w->box[1]);
    const int64_t classes = w->given->classes;
    /* Rows that follow each other in memory are one run. */
    const int64_t together = w->by[2] == width ? most(RUN / width, 1) : 1;
    for (int64_t p = 0; p < sources(&w->box[0]); p++)
        for (int64_t r = 0; r < rows; r += together) {
            const int64_t n = least(together, rows - r) * width, place = (p * rows + r) * width;
            const float *logits = w->logits + p * w->by[1] + r * w->by[2];
            if (w->moves)
                compare(logits, w->by[0], classes, n, 1, w->winner + place, w->second + place);
            else
                compare(logits, w->by[0], classes, n, 0, w->winner + place, w->second + place);
        }
}

/* The tile's numbers of a class. */
static field class_of(const work *w, int64_t c)
{
    const int64_t plane = w->i.first - w->box[0].first, row = w->j.first - w->box[1].first;
    const float *first = w->logits + c * w->by[0] + plane * w->by[1] + row * w->by[2];
    return (field){first, w->by[1], w->by[2]};
}

/* The source voxel of the box at which the tile begins. */
static int64_t corner(const work *w)
{
    const int64_t plane = w->i.first - w->box[0].first, row = w->j.first - w->box[1].first;
    return (plane * sources(&w->box[1]) + row) * sources(&w->box[2]);
}

/* The classes that win at the tile's source voxels, in their order; how many there are. */
static int64_t candidates(work *w)
{
    const int64_t width = sources(&w->box[2]), plane = sources(&w->box[1]) * width;
    const uint16_t *first = w->winner + corner(w);
    for (int64_t p = 0; p < sources(&w->i); p++)
        for (int64_t r = 0; r < sources(&w->j); r++) {
            const uint16_t *row = first + p * plane + r * width;
            int others = 0;
            for (int64_t k = 0; k < width; k++)
                others |= row[k] ^ row[0];
            w->seen[row[0]] = 1;
            for (int64_t k = 0; k < width && others; k++)
                w->seen[row[k]] = 1;
        }
    int64_t count = 0;
    for (int64_t c = 0; c < w->given->classes; c++) {
        if (w->seen[c])
            w->found[count++] = (uint16_t)c;
        w->seen[c] = 0;
    }
    return count;
}

/* The largest of all classes at one voxel. */
static uint16_t alone(const work *w, int64_t a, int64_t b, int64_t v)
{
    const axis *i = &w->at[0], *j = &w->at[1];
    const int64_t planes[2] = {i->left[a] - w->box[0].first, far_of(i, a) - w->box[0].first};
    const int64_t rows[2] = {j->left[b] - w->box[1].first, far_of(j, b) - w->box[1].first};
    const float ti = i->beyond[a], tj = j->beyond[b];
    float best = -__builtin_inff();
    uint16_t label = 0;
    for (int64_t c = 0; c < w->given->classes; c++) {
        float plane[2];
        for (int p = 0; p < 2; p++) {
            float row[2];
            for (int r = 0; r < 2; r++) {
                const float *at = w->logits + c * w->by[0] + planes[p] * w->by[1] + rows[r] * w->by[2];
                row[r] = at[w->near[v]] * w->here[v] + at[w->far[v]] * w->there[v];
            }
            plane[p] = row[0] * (1.0f - tj) + row[1] * tj;
        }
        const float x = plane[0] * (1.0f - ti) + plane[1] * ti;
        label = x > best ? (uint16_t)c : label;
        best = x > best ? x : best;
    }
    return label;
}

static void begin(work *w, uint16_t label)
{
    for (int64_t v = 0; v < voxels_of_tile(w); v++)
        w->best[v] = -__builtin_inff(), w->label[v] = label;
}

/* Mix the `count` classes that were found; 0 where many voxels may belong to another. */
static int decide_among(work *w, int64_t count)
{
    const int64_t n = targets(&w->box[2]), rows = targets(&w->j), voxels = voxels_of_tile(w);
    const int64_t width = sources(&w->box[2]), plane = sources(&w->box[1]) * width;
    begin(w, 0);
    for (int64_t c = 0; c < count; c++)
        mix_tile(w, class_of(w, w->found[c]), LARGEST, w->found[c]);
    mix_tile(w, (field){w->second + corner(w), plane, width}, REACHES, NONE);
    int64_t open = 0;
    for (int64_t v = 0; v < voxels; v++)
        open += w->label[v] == NONE;
    if (open * ALONE > voxels)
        return 0;
    for (int64_t v = 0; v < voxels && open; v++)
        if (w->label[v] == NONE)
            w->label[v] = alone(w, w->i.low + v / n / rows, w->j.low + v / n % rows, v % n);
    return 1;
}

static void decide_among_all(work *w)
{
    const int64_t classes = w->given->classes;
    begin(w, 0);
    for (int64_t c = 0; c < classes; c++) {
        w->ahead = c + 1 < classes ? w->by[0] : 0;
        mix_tile(w, class_of(w, c), LARGEST, (uint16_t)c);
    }
}

static void decide(work *w)
{
    const int64_t classes = w->given->classes, count = w->unasked ? classes : candidates(w);
    w->tiles++;
    if (count == 1) {
        begin(w, w->found[0]);
    } else if (2 * count > classes || !decide_among(w, count)) {
        w->dense++;
        decide_among_all(w);
    }
}

/* Target voxels that lie at source voxels have their winners. */
static void take_winners(work *w)
{
    const int64_t n = targets(&w->box[2]), width = sources(&w->box[2]);
    uint16_t *label = w->label;
    for (int64_t a = w->i.low; a < w->i.high; a++)
        for (int64_t b = w->j.low; b < w->j.high; b++, label += n) {
            const int64_t plane = w->at[0].left[a] - w->box[0].first;
            const int64_t row = w->at[1].left[b] - w->box[1].first;
            const uint16_t *winner = w->winner + (plane * sources(&w->box[1]) + row) * width;
            for (int64_t v = 0; v < n; v++)
                label[v] = winner[w->near[v]];
        }
}

/* The value of the last region that is above 0. */
static void decide_regions(work *w)
{
    begin(w, 0);
    for (int64_t r = 0; r < w->given->classes; r++)
        mix_tile(w, class_of(w, r), POSITIVE, (uint16_t)w->given->regions[r]);
}

static void store(const work *w)
{
    const call *c = w->given;
    const int64_t n = targets(&w->box[2]);
    const uint16_t *label = w->label;
    for (int64_t a = w->i.low; a < w->i.high; a++)
        for (int64_t b = w->j.low; b < w->j.high; b++, label += n) {
            const int64_t place = (a * c->targets[1] + b) * c->targets[2] + w->box[2].low;
            uint8_t *narrow = (uint8_t *)c->labels + place;
            uint16_t *wide = (uint16_t *)c->labels + place;
            for (int64_t v = 0; v < n && c->wide == 1; v++)
                narrow[v] = (uint8_t)label[v];
            for (int64_t v = 0; v < n && c->wide == 2; v++)
                wide[v] = label[v];
        }
}

static void work_out_tile(work *w)
{
    w->ahead = 0;
    if (w->given->regions)
        decide_regions(w);
    else if (w->moves)
        decide(w);
    else
        take_winners(w);
    store(w);
}

static void work_out_box(work *w)
{
    const call *c = w->given;
    if (w->is_made) {
        make_box(w);
    } else {
        w->logits = c->values;
        for (int n = 0; n < 3; n++) {
            w->logits += w->box[n].first * c->by[n + 1];
            w->by[n] = c->by[n];
        }
    }
    if (!c->regions && !w->unasked && !w->is_fused)
        find_winners(w);
    w->tiles = w->dense = 0;
    const int64_t planes = TILE / ROWS / targets(&w->box[2]);
    for (int64_t a = w->box[0].low; a < w->box[0].high; a = w->i.high) {
        w->i = part_from(&w->at[0], a, w->box[0].high, planes, w->room[0]);
        for (int64_t b = w->box[1].low; b < w->box[1].high; b = w->j.high) {
            w->j = part_from(&w->at[1], b, w->box[1].high, ROWS, w->room[1]);
            work_out_tile(w);
        }
    }
    if (w->unasked)
        w->unasked--;
    else if (w->tiles && w->dense == w->tiles)
        w->unasked = BOXES_UNASKED;
}

static int64_t root(int64_t x)
{
    int64_t n = 1;
    while ((n + 1) * (n + 1) <= x)
        n++;
    return n;
}

/* How large boxes are; along an axis a target voxel may need two source voxels. */
static void measure(work *w)
{
    const call *c = w->given;
    const int64_t made = (w->moves ? MADE : MADE_ALONE) / c->classes;
    const int64_t row = w->is_made && w->moves ? 64 : ROW;
    w->room[2] = most(least(row, c->sides[2]), 2);
    const int64_t rows = most((w->is_made ? made : BOX) / w->room[2], 4);
    w->room[0] = most(least(root(rows), c->sides[0]), 2);
    w->room[1] = most(least(rows / w->room[0], c->sides[1]), 2);
}

static void release(work *w)
{
    free(w->winner), free(w->second), free(w->made), free(w->means), free(w->packed);
    free(w->found), free(w->seen), free(w);
}

static void *floats(int64_t count) { return malloc(sizeof(float) * (size_t)most(count, 1)); }

/* What a thread works with; NULL where there is no memory. */
static work *prepared(const call *c)
{
    work *w = calloc(1, sizeof(work));
    if (!w)
        return 0;
    w->given = c;
    w->is_made = c->weight || c->counts || c->by[3] != 1;
    for (int n = 0; n < 3; n++) {
        w->at[n] = (axis){c->left[n], c->beyond[n], c->sides[n]};
        for (int64_t v = 0; v < c->targets[n]; v++)
            w->moves |= c->beyond[n][v] > 0;
    }
    w->is_fused = c->weight && !w->moves && !c->regions;
    measure(w);
    const int64_t plane = w->room[1] * w->room[2], voxels = w->room[0] * plane;
    w->winner = malloc(sizeof(uint16_t) * (size_t)voxels);
    w->second = floats(voxels);
    w->made = floats(w->is_made && !w->is_fused ? voxels * c->classes : 0);
    w->means = floats(c->weight ? up(plane, WIDE) * c->channels : 0);
    w->packed = floats(c->weight ? up(c->classes, TALL) * (c->channels + 1) : 0);
    w->found = malloc(sizeof(uint16_t) * (size_t)c->classes);
    w->seen = calloc((size_t)c->classes, 1);
    if (w->winner && w->second && w->made && w->means && w->packed && w->found && w->seen) {
        if (c->weight)
            pack(w);
        return w;
    }
    release(w);
    return 0;
}

/* The labels of the target planes from low to before high. In `largest` the largest size of what
   logits were made of, NaN if it was among them. 1 where there is no memory. */
int pruned_export(const call *c, int64_t low, int64_t high, float *largest)
{
    work *w = prepared(c);
    if (!w)
        return 1;
    part *box = w->box;
    for (int64_t v = 0; v < c->targets[2]; v = box[2].high) {
        box[2] = part_from(&w->at[2], v, c->targets[2], ROW, w->room[2]);
        lay_out_k(w);
        for (int64_t a = low; a < high; a = box[0].high) {
            box[0] = part_from(&w->at[0], a, high, high, w->room[0]);
            for (int64_t b = 0; b < c->targets[1]; b = box[1].high) {
                box[1] = part_from(&w->at[1], b, c->targets[1], c->targets[1], w->room[1]);
                work_out_box(w);
            }
        }
    }
    const union { uint32_t bits; float number; } found = {w->largest};
    *largest = found.number;
    release(w);
    return 0;
}
