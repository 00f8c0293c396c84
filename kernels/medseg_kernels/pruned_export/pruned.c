/* The pruned export of pruned.py for one thread of a CPU.

   Interpolation is a * (1 - t) + b * t along i, then j, then k, in float32 and without contraction
   (compile with -ffp-contract=off), so that not a bit differs from reference.py.
*/

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define RUN 2048
#define NONE 0xFFFF

/* Where n target voxels of an axis lie: after source voxel left, beyond of the way to the next. */
typedef struct {
    const int64_t *left;
    const float *beyond;
    int64_t n;
    int64_t side;
} axis;

typedef struct {
    const float *logits;
    int64_t stride; /* from class to class */
    int64_t classes;
    axis at[3];
    const uint16_t *winner; /* of each source voxel */
    const float *second;    /* the second largest logit there */
} volume;

static inline float mixed(float a, float b, float t) { return a * (1.0f - t) + b * t; }

/* The source voxel after that of target voxel n, or the same where n lies right there. */
static inline int64_t far_of(const axis *along, int64_t n) {
    const int64_t left = along->left[n];
    return left + (along->beyond[n] > 0 && left < along->side - 1);
}

/* The first of the largest class of each voxel. */
static void largest(const float *logits, int64_t stride, int64_t classes, int64_t voxels,
                    uint16_t *winner) {
    float best[RUN];
    int32_t first[RUN];
    for (int64_t low = 0; low < voxels; low += RUN) {
        const int64_t n = voxels - low < RUN ? voxels - low : RUN;
        for (int64_t v = 0; v < n; v++) best[v] = logits[low + v], first[v] = 0;
        for (int32_t c = 1; c < classes; c++) {
            const float *values = logits + c * stride + low;
            for (int64_t v = 0; v < n; v++) {
                const int wins = values[v] > best[v];
                first[v] = wins ? c : first[v];
                best[v] = wins ? values[v] : best[v];
            }
        }
        for (int64_t v = 0; v < n; v++) winner[low + v] = (uint16_t)first[v];
    }
}

/* The first of the largest class of each voxel, and the second largest logit. */
static void two_largest(const float *logits, int64_t stride, int64_t classes, int64_t voxels,
                        uint16_t *winner, float *second) {
    float best[RUN], lesser[RUN];
    int32_t first[RUN];
    for (int64_t low = 0; low < voxels; low += RUN) {
        const int64_t n = voxels - low < RUN ? voxels - low : RUN;
        for (int64_t v = 0; v < n; v++) {
            best[v] = logits[low + v];
            lesser[v] = -__builtin_inff();
            first[v] = 0;
        }
        for (int32_t c = 1; c < classes; c++) {
            const float *values = logits + c * stride + low;
            for (int64_t v = 0; v < n; v++) {
                const float x = values[v];
                const int wins = x > best[v];
                const float smaller = wins ? best[v] : x;
                lesser[v] = smaller > lesser[v] ? smaller : lesser[v];
                first[v] = wins ? c : first[v];
                best[v] = wins ? x : best[v];
            }
        }
        for (int64_t v = 0; v < n; v++) {
            winner[low + v] = (uint16_t)first[v];
            second[low + v] = lesser[v];
        }
    }
}

/* A row of target voxels along k: the four source rows around it, and how they are mixed. */
typedef struct {
    int64_t offset[2][2]; /* [i][j] */
    float beyond_i, beyond_j;
} row;

static row row_at(const volume *all, int64_t a, int64_t b) {
    const axis *i = &all->at[0], *j = &all->at[1];
    const int64_t width = all->at[2].side, plane = width * j->side;
    const int64_t near_i = i->left[a], far_i = far_of(i, a);
    const int64_t near_j = j->left[b], far_j = far_of(j, b);
    row here = {{{near_i * plane + near_j * width, near_i * plane + far_j * width},
                 {far_i * plane + near_j * width, far_i * plane + far_j * width}},
                i->beyond[a],
                j->beyond[b]};
    return here;
}

static inline float mix_corners(const float *values, const row *here, int64_t k, int64_t next_k,
                                float t) {
    float along_k[2];
    const int64_t ends[2] = {k, next_k};
    for (int e = 0; e < 2; e++) {
        const float near = mixed(values[here->offset[0][0] + ends[e]],
                                 values[here->offset[1][0] + ends[e]], here->beyond_i);
        const float far = mixed(values[here->offset[0][1] + ends[e]],
                                values[here->offset[1][1] + ends[e]], here->beyond_i);
        along_k[e] = mixed(near, far, here->beyond_j);
    }
    return mixed(along_k[0], along_k[1], t);
}

/* The corners' winners, each once and in their order; how many there are. */
static int candidates(const volume *all, const row *here, int64_t k, int64_t next_k,
                      uint16_t *found) {
    int count = 0;
    for (int corner = 0; corner < 8; corner++) {
        const int64_t end = corner & 1 ? next_k : k;
        const uint16_t c = all->winner[here->offset[corner >> 2][(corner >> 1) & 1] + end];
        int place = 0;
        while (place < count && found[place] < c) place++;
        if (place < count && found[place] == c) continue;
        for (int later = count; later > place; later--) found[later] = found[later - 1];
        found[place] = c;
        count++;
    }
    return count;
}

/* The label of one voxel; counts in `all_compared` where that took every class. */
static uint16_t decided(const volume *all, const row *here, int64_t k, int64_t next_k, float t,
                        int64_t *all_compared) {
    uint16_t found[8];
    const int count = candidates(all, here, k, next_k, found);
    uint16_t best = found[0];
    float value = mix_corners(all->logits + best * all->stride, here, k, next_k, t);
    for (int n = 1; n < count; n++) {
        const float other = mix_corners(all->logits + found[n] * all->stride, here, k, next_k, t);
        if (other > value) best = found[n], value = other;
    }
    if (value > mix_corners(all->second, here, k, next_k, t)) return best;
    /* A class that wins at no corner may win between them. */
    ++*all_compared;
    best = 0, value = mix_corners(all->logits, here, k, next_k, t);
    for (int64_t c = 1; c < all->classes; c++) {
        const float other = mix_corners(all->logits + c * all->stride, here, k, next_k, t);
        if (other > value) best = (uint16_t)c, value = other;
    }
    return best;
}

/* One source row mixed along i and j; `mix` has room for it. */
static void mix_row(const float *values, const row *here, int64_t width, float *restrict mix) {
    const float *v00 = values + here->offset[0][0], *v10 = values + here->offset[1][0];
    const float *v01 = values + here->offset[0][1], *v11 = values + here->offset[1][1];
    const float ti = here->beyond_i, tj = here->beyond_j;
    for (int64_t k = 0; k < width; k++)
        mix[k] = mixed(mixed(v00[k], v10[k], ti), mixed(v01[k], v11[k], ti), tj);
}

/* Every class of every voxel of a row. */
static void decide_densely(const volume *all, const row *here, const int32_t *near,
                           const int32_t *far, float *mix, float *best, uint16_t *labels) {
    const axis *k = &all->at[2];
    for (int32_t c = 0; c < all->classes; c++) {
        mix_row(all->logits + c * all->stride, here, k->side, mix);
        if (c == 0) {
            for (int64_t n = 0; n < k->n; n++) {
                best[n] = mixed(mix[near[n]], mix[far[n]], k->beyond[n]);
                labels[n] = 0;
            }
            continue;
        }
        for (int64_t n = 0; n < k->n; n++) {
            const float value = mixed(mix[near[n]], mix[far[n]], k->beyond[n]);
            const int wins = value > best[n];
            labels[n] = wins ? (uint16_t)c : labels[n];
            best[n] = wins ? value : best[n];
        }
    }
}

/* The winner where the four rows around agree, else NONE. */
static void agree(const volume *all, const row *here, uint16_t *restrict code) {
    const uint16_t *w00 = all->winner + here->offset[0][0], *w01 = all->winner + here->offset[0][1];
    const uint16_t *w10 = all->winner + here->offset[1][0], *w11 = all->winner + here->offset[1][1];
    for (int64_t k = 0; k < all->at[2].side; k++) {
        const int same = (w00[k] == w01[k]) & (w00[k] == w10[k]) & (w00[k] == w11[k]);
        code[k] = same ? w00[k] : NONE;
    }
}

static volume volume_of(const float *logits, int64_t stride, int64_t classes, const int64_t *sides,
                        const int64_t *counts, const int64_t *const *left,
                        const float *const *beyond) {
    volume all = {.logits = logits, .stride = stride, .classes = classes};
    for (int n = 0; n < 3; n++) all.at[n] = (axis){left[n], beyond[n], counts[n], sides[n]};
    return all;
}

/* Whether any target voxel lies between two source voxels. */
static int moves(const volume *all) {
    for (int n = 0; n < 3; n++)
        for (int64_t v = 0; v < all->at[n].n; v++)
            if (all->at[n].beyond[v] > 0) return 1;
    return 0;
}

/* Memory for one row of the target. */
typedef struct {
    int32_t *near, *far;  /* (n,) source voxels along k */
    uint16_t *code, *line; /* (width,) and (n,) */
    float *mix, *best;     /* (width,) and (n,) */
    int64_t rows;
    double share; /* of the mixed voxels that lately took every class */
} scratch;

/* What a mixed voxel costs for itself, what it costs to compare a class there, and in a row that is
   compared as a whole: nanoseconds on one machine, of which the ratios matter. */
static const double ALONE = 60, A_CLASS = 10, IN_ROW = 2.2;
/* So often a row is looked at voxel by voxel, to learn that share anew. */
#define LEARN 32

static int scratch_for(const axis *k, scratch *made) {
    const size_t width = (size_t)k->side, n = (size_t)k->n;
    made->near = malloc(sizeof(int32_t) * 2 * n);
    made->code = malloc(sizeof(uint16_t) * (width + n));
    made->mix = malloc(sizeof(float) * (width + n));
    if (!made->near || !made->code || !made->mix) return 0;
    made->far = made->near + n;
    made->line = made->code + width;
    made->best = made->mix + width;
    for (int64_t c = 0; c < k->n; c++) {
        made->near[c] = (int32_t)k->left[c];
        made->far[c] = (int32_t)far_of(k, c);
    }
    return 1;
}

static void scratch_freed(scratch *made) { free(made->near), free(made->code), free(made->mix); }

static void decide_row(const volume *all, const row *here, scratch *with) {
    const axis *k = &all->at[2];
    int64_t open = 0;
    agree(all, here, with->code);
    for (int64_t c = 0; c < k->n; c++) {
        const uint16_t one = with->code[with->near[c]], other = with->code[with->far[c]];
        with->line[c] = one == other ? one : NONE;
        open += with->line[c] == NONE;
    }
    if (!open) return;
    const double apart = (double)open * (ALONE + with->share * A_CLASS * (double)all->classes);
    const double whole = (double)k->n * IN_ROW * (double)all->classes;
    if (apart > whole && ++with->rows % LEARN) {
        decide_densely(all, here, with->near, with->far, with->mix, with->best, with->line);
        return;
    }
    int64_t all_compared = 0;
    for (int64_t c = 0; c < k->n; c++)
        if (with->line[c] == NONE)
            with->line[c] =
                decided(all, here, with->near[c], with->far[c], k->beyond[c], &all_compared);
    with->share = (with->share + (double)all_compared / (double)open) / 2;
}

/* The value of the last region that is above 0. */
static void write_regions(const volume *all, const row *here, const int32_t *values,
                          scratch *with) {
    const axis *k = &all->at[2];
    for (int64_t c = 0; c < k->n; c++) with->line[c] = 0;
    for (int64_t r = 0; r < all->classes; r++) {
        mix_row(all->logits + r * all->stride, here, k->side, with->mix);
        for (int64_t c = 0; c < k->n; c++) {
            const float value =
                mixed(with->mix[with->near[c]], with->mix[with->far[c]], k->beyond[c]);
            with->line[c] = value > 0 ? (uint16_t)values[r] : with->line[c];
        }
    }
}

static void stored(const uint16_t *line, int64_t n, int64_t place, void *labels, int wide) {
    for (int64_t c = 0; c < n; c++) {
        if (wide)
            ((int16_t *)labels)[place + c] = (int16_t)line[c];
        else
            ((uint8_t *)labels)[place + c] = (uint8_t)line[c];
    }
}

/* Labels (a, b, c), a byte each or two where `wide`. Without `values` the largest class, with room
   for `winner` and `second` of each source voxel; with them regions. 1 where there is no memory. */
int pruned_export(const float *logits, int64_t stride, int64_t classes, const int64_t *sides,
                  const int64_t *counts, const int64_t *const *left, const float *const *beyond,
                  uint16_t *winner, float *second, const int32_t *values, void *labels,
                  int wide) {
    volume all = volume_of(logits, stride, classes, sides, counts, left, beyond);
    scratch with = {0};
    if (!scratch_for(&all.at[2], &with)) {
        scratch_freed(&with);
        return 1;
    }
    if (!values && !moves(&all)) {
        largest(logits, stride, classes, sides[0] * sides[1] * sides[2], winner);
        all.winner = winner;
    } else if (!values) {
        two_largest(logits, stride, classes, sides[0] * sides[1] * sides[2], winner, second);
        all.winner = winner, all.second = second;
    }
    for (int64_t a = 0; a < counts[0]; a++) {
        for (int64_t b = 0; b < counts[1]; b++) {
            const row here = row_at(&all, a, b);
            if (values)
                write_regions(&all, &here, values, &with);
            else
                decide_row(&all, &here, &with);
            stored(with.line, counts[2], (a * counts[1] + b) * counts[2], labels, wide);
        }
    }
    scratch_freed(&with);
    return 0;
}
